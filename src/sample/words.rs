//! Names and words of the sample, in five languages and scripts.
//!
//! Text that compresses like a CRM's: common words often, names, numbers and rare words between.
//! Invariant: no line of prose is empty, and an e-mail address is ASCII whatever the name.

use std::sync::LazyLock;

use super::dice::Dice;

/// A language with its script, its names, and its words.
pub(super) struct Language {
    /// The locale's code.
    pub locale: &'static str,
    /// The country of its addresses, as ISO 3166 has it.
    pub country: &'static str,
    /// The currency of its deals.
    pub currency: &'static str,
    /// The country's telephone prefix.
    pub telephone: &'static str,
    /// The end of its domain names.
    pub domain: &'static str,
    /// First names, each with its form in an e-mail address.
    pub first_names: Vec<(&'static str, &'static str)>,
    /// Last names, likewise.
    pub last_names: Vec<(&'static str, &'static str)>,
    /// Cities.
    pub cities: Vec<&'static str>,
    /// Streets.
    pub streets: Vec<&'static str>,
    /// Ends of companies' names.
    pub companies: Vec<&'static str>,
    /// How a mail begins and ends.
    pub greetings: Vec<&'static str>,
    words: Vec<&'static str>,
    syllables: Vec<&'static str>,
    between: &'static str,
    full_stop: &'static str,
}

struct Source {
    codes: [&'static str; 5],
    first_names: &'static str,
    last_names: &'static str,
    cities: &'static str,
    streets: &'static str,
    companies: &'static str,
    greetings: &'static str,
    words: &'static str,
    syllables: &'static str,
    between: &'static str,
    full_stop: &'static str,
}

/// `written/ascii` for each name.
fn names(text: &'static str) -> Vec<(&'static str, &'static str)> {
    text.split_whitespace()
        .map(|name| name.split_once('/').unwrap_or((name, name)))
        .collect()
}

fn phrases(text: &'static str) -> Vec<&'static str> {
    text.split('|').map(str::trim).collect()
}

impl From<&Source> for Language {
    fn from(source: &Source) -> Self {
        let [locale, country, currency, telephone, domain] = source.codes;
        Language {
            locale,
            country,
            currency,
            telephone,
            domain,
            first_names: names(source.first_names),
            last_names: names(source.last_names),
            cities: phrases(source.cities),
            streets: phrases(source.streets),
            companies: phrases(source.companies),
            greetings: phrases(source.greetings),
            words: source.words.split_whitespace().collect(),
            syllables: source.syllables.split_whitespace().collect(),
            between: source.between,
            full_stop: source.full_stop,
        }
    }
}

impl Language {
    /// The language of an account and all that belongs to it.
    pub fn draw(dice: &mut Dice) -> &'static Language {
        let place = match dice.below(100) {
            0..55 => 0,
            55..70 => 1,
            70..84 => 2,
            84..92 => 3,
            _ => 4,
        };
        &LANGUAGES[place]
    }

    fn push_word(&self, dice: &mut Dice, out: &mut String) {
        match dice.below(100) {
            0..86 => out.push_str(dice.pick_early::<&str>(&self.words)),
            86..95 => {
                for _ in 0..2 + dice.below(3) {
                    out.push_str(dice.pick::<&str>(&self.syllables));
                }
            }
            95..98 => out.push_str(&format!("{}", 1 + dice.zipf(100_000))),
            _ => out.push_str(dice.pick(&self.last_names).0),
        }
    }

    /// Appends `words` words, without a full stop.
    fn push_phrase(&self, dice: &mut Dice, words: u32, out: &mut String) {
        for number in 0..words {
            if number > 0 {
                out.push_str(self.between);
            }
            self.push_word(dice, out);
        }
    }

    /// Appends sentences of about `words` words together.
    pub fn push_prose(&self, dice: &mut Dice, words: u32, out: &mut String) {
        let mut left = words.max(1);
        while left > 0 {
            let sentence = (5 + dice.below(12)).min(left);
            self.push_phrase(dice, sentence, out);
            out.push_str(self.full_stop);
            left -= sentence;
        }
        out.truncate(out.trim_end().len());
    }

    /// `words` words, as a subject or a title: none is more frequent than others.
    pub fn phrase(&self, dice: &mut Dice, words: u32) -> String {
        let words: Vec<&str> = (0..words).map(|_| *dice.pick(&self.words)).collect();
        words.join(self.between)
    }

    /// About `words` words in sentences.
    pub fn prose(&self, dice: &mut Dice, words: u32) -> String {
        let mut out = String::new();
        self.push_prose(dice, words, &mut out);
        out
    }
}

/// The languages: English, Polish, Ukrainian with Russian, Persian, Japanese.
pub(super) static LANGUAGES: LazyLock<[Language; 5]> =
    LazyLock::new(|| [&ENGLISH, &POLISH, &CYRILLIC, &PERSIAN, &JAPANESE].map(Language::from));

static ENGLISH: Source = Source {
    codes: ["en_GB", "GB", "GBP", "+44", "co.uk"],
    first_names: "James Olivia Amelia Noah Isla George Ava Arthur Mia Leo Zoë/zoe Chloë/chloe \
        Grace Oscar Freya Henry Siân/sian Theo Ruby Alfie Erin Finlay Niamh Rhys Aoife Owen Priya \
        Imran Folake Wei",
    last_names: "Smith Jones Taylor Brown Williams Wilson Johnson Davies Patel Wright Evans \
        Thompson Walker Khan Green O'Neill/oneill Hughes Clarke Okafor Hall MacDonald/macdonald \
        Begum Bennett Ngata Whitfield Ashworth Brontë/bronte Sørensen/sorensen Müller/mueller \
        García/garcia",
    cities: "London | Manchester | Leeds | Bristol | Glasgow | Cardiff | Newcastle upon Tyne | \
        Stoke-on-Trent | York | Ynys Môn",
    streets: "High Street | Station Road | Church Lane | Victoria Road | King's Parade | \
        Mill Lane | Park Avenue | The Crescent",
    companies: "Ltd | plc | & Sons | Group | Holdings | Partners LLP | Logistics | Systems",
    greetings: "Dear | Hello | Hi | Good morning | Kind regards | Best wishes | Many thanks",
    words: "the to and of a in for we is on you that it be with have as this will at our by or \
        from please order offer price call meeting customer contract delivery invoice week next \
        team can not are your if any new more before after about discount renewal quote budget \
        decision manager asked wants again today tomorrow Monday Friday sent received waiting \
        agreed confirmed interested licence support ticket issue warehouse shipment account \
        payment overdue quarter demo proposal review version attached following details contact \
        request terms training seats upgrade pilot compliance procurement stakeholder integration",
    syllables: "ber con dal en fra gor hel in ka lo men nor os pre quil ro sta ter ul ver wex yo \
        zan chi tho mar sil tron gis pho",
    between: " ",
    full_stop: ". ",
};

static POLISH: Source = Source {
    codes: ["pl_PL", "PL", "PLN", "+48", "pl"],
    first_names: "Anna Piotr Katarzyna Krzysztof Małgorzata/malgorzata Andrzej Agnieszka Tomasz \
        Łukasz/lukasz Paweł/pawel Józef/jozef Michał/michal Zofia Grażyna/grazyna Wojciech Żaneta/zaneta \
        Stanisław/stanislaw Bożena/bozena",
    last_names: "Nowak Kowalski Wiśniewska/wisniewska Wójcik/wojcik Kowalczyk Kamińska/kaminska \
        Lewandowski Zieliński/zielinski Szymańska/szymanska Woźniak/wozniak Dąbrowski/dabrowski \
        Kozłowska/kozlowska Jabłoński/jablonski Grzęda/grzeda Brzęczyszczykiewicz/brzeczyszczykiewicz \
        Śliwa/sliwa Żuławski/zulawski Ćwik/cwik",
    cities: "Warszawa | Kraków | Łódź | Wrocław | Poznań | Gdańsk | Szczecin | Białystok | Zielona Góra",
    streets: "ul. Marszałkowska | ul. Długa | al. Jerozolimskie | ul. Świętokrzyska | \
        ul. Żwirki i Wigury | pl. Wolności | ul. Łąkowa",
    companies: "Sp. z o.o. | S.A. | i Wspólnicy | Zakłady | Hurtownia | Przedsiębiorstwo",
    greetings: "Szanowny Panie | Szanowna Pani | Dzień dobry | Cześć | Z poważaniem | Pozdrawiam",
    words: "w i na z do się że nie o jest to dla przez po od za ale oraz jak proszę oferta \
        zamówienie klient umowa dostawa faktura termin spotkanie cena rabat tydzień został może \
        będzie mamy już jeszcze dziś jutro poniedziałek wysłano otrzymano potwierdził \
        zainteresowany płatność zaległa kwartał wdrożenie szkolenie wsparcie zgłoszenie magazyn \
        przesyłka odnowienie budżet decyzja dyrektor prezes pytał ponownie załącznik szczegóły \
        wersja licencja warunki współpraca źródło łącznie świadczenie księgowość",
    syllables: "brzę cze dło fi gór kła lin mię no pę rze sło szcz tro wą źni żar kow ski dzie ło \
        na sta",
    between: " ",
    full_stop: ". ",
};

static CYRILLIC: Source = Source {
    codes: ["uk_UA", "UA", "UAH", "+380", "com.ua"],
    first_names: "Александр/aleksandr Елена/elena Дмитрий/dmitri Ольга/olga Сергей/sergei \
        Наталья/natalia Андрей/andrei Татьяна/tatiana Юлия/yulia Михаил/mikhail Оксана/oksana \
        Богдан/bohdan Тарас/taras Соломія/solomiia Їжакевич/yizhak Олена/olena",
    last_names: "Иванов/ivanov Смирнова/smirnova Кузнецов/kuznetsov Попова/popova \
        Шевченко/shevchenko Коваленко/kovalenko Бондаренко/bondarenko Ткаченко/tkachenko \
        Кравчук/kravchuk Олійник/oliinyk Щербак/shcherbak Юрченко/yurchenko Мельник/melnyk \
        Ґалаґан/galagan",
    cities: "Київ | Харків | Одеса | Львів | Дніпро | Запоріжжя | Вінниця | Полтава",
    streets: "вул. Хрещатик | вул. Сумська | пр. Свободи | вул. Дерибасівська | бул. Шевченка",
    companies: "ТОВ | ПАТ | Торговий дім | Завод | Агро | Сервіс",
    greetings: "Уважаемый | Уважаемая | Добрый день | Здравствуйте | С уважением | Всего доброго",
    words: "и в на не что с по для мы это как от за к из вы до при уже если будет заказ \
        предложение клиент договор поставка счёт встреча цена скидка неделя срок оплата склад \
        отгрузка продление бюджет решение директор просил перезвонить завтра сегодня понедельник \
        отправлено получено подтвердил заинтересован обучение поддержка заявка версия лицензия \
        условия приложение подробности квартал внедрение объём ещё съезд компания руководитель \
        задержка ожидает согласовано проверка отчёт",
    syllables: "бра вер гон дол жи зан кла лю мир но пре рос сто тур фи хо цен чар шта щё эк юр яс",
    between: " ",
    full_stop: ". ",
};

static PERSIAN: Source = Source {
    codes: ["fa_IR", "IR", "IRR", "+98", "ir"],
    first_names: "محمد/mohammad فاطمه/fatemeh علی/ali زهرا/zahra حسین/hossein مریم/maryam \
        رضا/reza سارا/sara امیر/amir نرگس/narges کوروش/kourosh شیرین/shirin پریسا/parisa",
    last_names: "احمدی/ahmadi محمدی/mohammadi حسینی/hosseini کریمی/karimi رضایی/rezaei \
        موسوی/mousavi قاسمی/ghasemi نوری/nouri پژمان/pezhman گل‌محمدی/golmohammadi یزدانی/yazdani",
    cities: "تهران | مشهد | اصفهان | شیراز | تبریز | کرج | یزد | کرمانشاه",
    streets: "خیابان ولیعصر | خیابان انقلاب | بلوار کشاورز | خیابان شریعتی | کوچه گلستان",
    companies: "شرکت | گروه | بازرگانی | صنایع | خدمات",
    greetings: "جناب آقای | سرکار خانم | سلام | با درود | با احترام | با تشکر",
    words: "و در به از که این را با است برای آن یک ما شما می‌شود تا هم سفارش پیشنهاد مشتری قرارداد \
        تحویل فاکتور جلسه قیمت تخفیف هفته مهلت پرداخت انبار ارسال تمدید بودجه تصمیم مدیر تماس فردا \
        امروز شنبه دریافت تأیید علاقه‌مند آموزش پشتیبانی درخواست نسخه مجوز شرایط پیوست جزئیات فصل \
        استقرار گزارش بررسی همکاری می‌خواهد نمی‌تواند دوباره منتظر",
    syllables: "با پا تا جا چه خو دا ره زن سا شه فا کا گل لا ما نو وا هم یا",
    between: " ",
    full_stop: ". ",
};

static JAPANESE: Source = Source {
    codes: ["ja_JP", "JP", "JPY", "+81", "co.jp"],
    first_names: "太郎/taro 花子/hanako 翔太/shota 美咲/misaki 健一/kenichi 陽菜/hina 大輔/daisuke \
        さくら/sakura 拓也/takuya 結衣/yui 蓮/ren 葵/aoi 悠斗/yuto",
    last_names: "佐藤/sato 鈴木/suzuki 高橋/takahashi 田中/tanaka 渡邊/watanabe 伊藤/ito 山本/yamamoto \
        中村/nakamura 小林/kobayashi 齋藤/saito 吉田/yoshida 髙島/takashima 長谷川/hasegawa",
    cities: "東京都 | 大阪市 | 名古屋市 | 札幌市 | 福岡市 | 京都市 | 横浜市 | 仙台市",
    streets: "千代田区丸の内 | 中央区銀座 | 北区梅田 | 中区栄 | 港区六本木 | 下京区四条通",
    companies: "株式会社 | 有限会社 | 商事 | 工業 | 電機 | ホールディングス",
    greetings: "拝啓 | お世話になっております | こんにちは | 平素より | よろしくお願いいたします | 敬具",
    words: "の に は を が と で も へ より から まで お客様 ご注文 見積書 契約 納品 請求書 会議 \
        価格 割引 来週 期限 支払い 倉庫 出荷 更新 予算 決定 部長 電話 明日 本日 月曜日 送付 受領 \
        確認 いたしました 興味 研修 サポート 依頼 バージョン ライセンス 条件 添付 詳細 四半期 導入 \
        担当者 ください について しました です ます 検討中 返信 商品 在庫",
    syllables: "ア イ カ キ サ シ タ テ ナ ノ ハ ホ マ ミ ヤ ラ ロ ワ ン ト 社 部 号 新 大",
    between: "",
    full_stop: "。",
};
