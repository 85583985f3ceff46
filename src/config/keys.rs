//! Every key that a configuration may have, as the types say that read it.
//!
//! The types are walked with a deserializer that has no text: each key is asked for once, with its
//! form. So documentation and hints cannot have a key that the program has not, or lack one.
//! Invariant: only the types' own words are used; there is no second list of keys.

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

/// A key of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name, behind those of the tables that it stands in.
    pub path: Vec<&'static str>,
    /// What it takes.
    pub form: Form,
    /// How many lists are around that: 1 for several, 2 for several lists.
    pub lists: usize,
}

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A text.
    Text,
    /// A whole number.
    Whole,
    /// A number.
    Real,
    /// `true` or `false`.
    Bool,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A number or a text.
    Any,
    /// A table of further keys.
    Table,
}

/// Every key that `T` reads, tables before what stands in them.
pub fn of<T: for<'de> Deserialize<'de>>() -> Vec<Key> {
    let found = RefCell::new(Vec::new());
    let walk = Walk {
        found: &found,
        path: Vec::new(),
        lists: 0,
    };
    T::deserialize(walk)
        .map(drop)
        .expect("the types of the configuration are of forms that are known here");
    found.into_inner()
}

/// The tables among `keys` that have a key called `name`.
pub fn tables_with(keys: &[Key], name: &str) -> Vec<String> {
    let with = keys.iter().filter_map(|key| match key.path.split_last() {
        Some((last, table)) if *last == name => Some(heading(keys, table)),
        _ => None,
    });
    with.collect()
}

/// How a table is written above its keys.
pub fn heading(keys: &[Key], table: &[&str]) -> String {
    let name = table.join(".");
    let mut found = keys.iter().filter(|key| key.path == table);
    match found.next().is_some_and(|key| key.lists > 0) {
        true => format!("[[{name}]]"),
        false => format!("[{name}]"),
    }
}

/// A place in the configuration that takes whatever is asked for, and notes it.
#[derive(Clone)]
struct Walk<'a> {
    found: &'a RefCell<Vec<Key>>,
    path: Vec<&'static str>,
    lists: usize,
}

impl<'a> Walk<'a> {
    fn note(&self, form: Form) {
        let key = Key {
            path: self.path.clone(),
            form,
            lists: self.lists,
        };
        if !key.path.is_empty() {
            self.found.borrow_mut().push(key);
        }
    }

    fn under(&self, name: &'static str) -> Walk<'a> {
        let mut path = self.path.clone();
        path.push(name);
        let (found, lists) = (self.found, 0);
        Walk { found, path, lists }
    }

    fn element(&self) -> Walk<'a> {
        let lists = self.lists + 1;
        Walk {
            lists,
            ..self.clone()
        }
    }
}

/// What a visitor says that it takes.
struct Expected<'a, V>(&'a V);

impl<'de, V: Visitor<'de>> fmt::Display for Expected<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}

/// Methods that note a form and hand over one value of it.
macro_rules! notes {
    ($($method:ident => $form:expr, $visit:ident($value:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.note($form);
            visitor.$visit($value)
        }
    )*};
}

impl<'de> Deserializer<'de> for Walk<'_> {
    type Error = Error;

    notes! {
        deserialize_bool => Form::Bool, visit_bool(false);
        deserialize_i8 => Form::Whole, visit_i8(1);
        deserialize_i16 => Form::Whole, visit_i16(1);
        deserialize_i32 => Form::Whole, visit_i32(1);
        deserialize_i64 => Form::Whole, visit_i64(1);
        deserialize_u8 => Form::Whole, visit_u8(1);
        deserialize_u16 => Form::Whole, visit_u16(1);
        deserialize_u32 => Form::Whole, visit_u32(1);
        deserialize_u64 => Form::Whole, visit_u64(1);
        deserialize_f32 => Form::Real, visit_f32(1.0);
        deserialize_f64 => Form::Real, visit_f64(1.0);
        deserialize_str => Form::Text, visit_str("");
        deserialize_string => Form::Text, visit_str("");
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // What takes a table or several says so.
        if Expected(&visitor).to_string().contains("a table") {
            return self.deserialize_seq(visitor);
        }
        self.note(Form::Any);
        visitor.visit_i64(1)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(One(Some(self.element())))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note(Form::Table);
        visitor.visit_map(Fields {
            of: self,
            left: fields,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note(Form::Choice(variants));
        visitor.visit_enum(First(variants))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

/// A list of one.
struct One<'a>(Option<Walk<'a>>);

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|walk| seed.deserialize(walk)).transpose()
    }
}

/// Each field of a table once.
struct Fields<'a> {
    of: Walk<'a>,
    left: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let key = self.left.first().copied().map(name);
        key.map(|key| seed.deserialize(key)).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((name, left)) = self.left.split_first() else {
            return Err(Error::custom("no field is left"));
        };
        self.left = left;
        seed.deserialize(self.of.under(name))
    }
}

fn name(text: &'static str) -> StrDeserializer<'static, Error> {
    text.into_deserializer()
}

/// The first of the texts that may be chosen.
struct First(&'static [&'static str]);

impl<'de> EnumAccess<'de> for First {
    type Error = Error;
    type Variant = Nothing;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Nothing), Error> {
        let first = self.0.first().copied().map(name);
        let first = first.ok_or_else(|| Error::custom("nothing may be chosen"))?;
        Ok((seed.deserialize(first)?, Nothing))
    }
}

/// A text that may be chosen holds nothing more.
struct Nothing;

impl<'de> VariantAccess<'de> for Nothing {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Error> {
        Err(Error::custom("a choice holds more than its name"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("a choice holds more than its name"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        Err(Error::custom("a choice holds more than its name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Choice {
        Freeze,
        Off,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only the names of fields matter")]
    struct Inner {
        daily: Option<u32>,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only the names of fields matter")]
    struct Outer {
        url: String,
        tags: Vec<String>,
        keep: Option<Inner>,
        many: Vec<Inner>,
        percent: f64,
        plain: bool,
        alarm: Option<Choice>,
        command: Vec<Vec<String>>,
    }

    #[test]
    fn every_form_of_key_is_found_in_its_table() {
        let keys = of::<Outer>();
        let told: Vec<(String, Form, usize)> = keys
            .iter()
            .map(|key| (key.path.join("."), key.form, key.lists))
            .collect();
        let expected = [
            ("url", Form::Text, 0),
            ("tags", Form::Text, 1),
            ("keep", Form::Table, 0),
            ("keep.daily", Form::Whole, 0),
            ("many", Form::Table, 1),
            ("many.daily", Form::Whole, 0),
            ("percent", Form::Real, 0),
            ("plain", Form::Bool, 0),
            ("alarm", Form::Choice(&["freeze", "off"]), 0),
            ("command", Form::Text, 2),
        ];
        let expected = expected.map(|(path, form, lists)| (path.to_owned(), form, lists));
        assert_eq!(told, expected);
        assert_eq!(tables_with(&keys, "daily"), ["[keep]", "[[many]]"]);
        assert!(tables_with(&keys, "nothing").is_empty());
    }
}
