//! A record of each CRM comes back, on tables with the names and types of its published schema.
//!
//! The files that the tables were compared with are named beside them; columns that say nothing about
//! relations are left out. The oracle is the database before the accident.

use rowvault::config::relations::{Own, choose};
use rowvault::job::undelete::Mode;

use crate::undelete_scene::{Stage, asking, backup, differences, undelete};

/// A CRM, some rows, and what its own code does when it deletes one record.
struct Case {
    list: &'static str,
    script: &'static str,
    accident: &'static str,
    table: &'static str,
    key: &'static str,
}

async fn comes_back(case: &Case) {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    live.sql(case.script);
    let whole = live.dump();
    let snapshot = backup(&stage.house, &live).await;
    live.sql(case.accident);
    assert!(!differences(&whole, &live.dump()).is_empty());
    let manifest = stage.house.opened.manifest(&snapshot).await.unwrap();
    let tables = manifest.tables.iter().map(|one| one.table.clone());
    let tables: Vec<_> = tables.collect();
    let mut request = asking(&live, case.table, &[case.key]);
    request.relations = choose(&tables, &Own::default());
    assert_eq!(request.relations.lists, [case.list]);
    let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply);
    let done = done.await.unwrap();
    assert!(done.applied, "{}: {:#?}", case.list, done.plan);
    let left = differences(&whole, &live.dump());
    assert!(
        left.is_empty(),
        "{}: {left:#?}\n{:#?}",
        case.list,
        done.plan
    );
}

/// vtiger-crm/vtigercrm, schema/DatabaseSchema.xml and modules/Accounts/Accounts.php (31a494c2). Every
/// record is a row of crmentity and one of its module, tied by a foreign key; deletion is a flag of
/// crmentity, and an account takes its potentials and quotes with it.
#[tokio::test(flavor = "multi_thread")]
async fn account_of_vtiger_comes_back_by_the_flag_of_its_entity() {
    comes_back(&Case {
        list: "vtiger",
        script: "
            CREATE TABLE vtiger_crmentity(crmid INTEGER PRIMARY KEY, smcreatorid INTEGER NOT NULL DEFAULT 0, smownerid INTEGER NOT NULL DEFAULT 0,
              modifiedby INTEGER NOT NULL DEFAULT 0, setype VARCHAR(30) NOT NULL, description TEXT, createdtime DATETIME, modifiedtime DATETIME,
              status VARCHAR(50), version INTEGER NOT NULL DEFAULT 0, presence INTEGER DEFAULT 1, deleted INTEGER NOT NULL DEFAULT 0);
            CREATE TABLE vtiger_account(accountid INTEGER PRIMARY KEY REFERENCES vtiger_crmentity(crmid) ON DELETE CASCADE, account_no VARCHAR(100) NOT NULL,
              accountname VARCHAR(100) NOT NULL, parentid INTEGER DEFAULT 0, phone VARCHAR(30), website VARCHAR(100));
            CREATE TABLE vtiger_accountbillads(accountaddressid INTEGER PRIMARY KEY REFERENCES vtiger_account(accountid) ON DELETE CASCADE, bill_city VARCHAR(30));
            CREATE TABLE vtiger_accountscf(accountid INTEGER PRIMARY KEY REFERENCES vtiger_account(accountid) ON DELETE CASCADE);
            CREATE TABLE vtiger_contactdetails(contactid INTEGER PRIMARY KEY REFERENCES vtiger_crmentity(crmid) ON DELETE CASCADE, contact_no VARCHAR(100) NOT NULL,
              accountid INTEGER, lastname VARCHAR(80) NOT NULL, reportsto VARCHAR(30));
            CREATE TABLE vtiger_potential(potentialid INTEGER PRIMARY KEY REFERENCES vtiger_crmentity(crmid) ON DELETE CASCADE, potential_no VARCHAR(100) NOT NULL,
              related_to INTEGER, potentialname VARCHAR(120) NOT NULL, amount NUMERIC(14,2) DEFAULT 0);
            CREATE TABLE vtiger_contpotentialrel(contactid INTEGER NOT NULL REFERENCES vtiger_contactdetails(contactid) ON DELETE CASCADE,
              potentialid INTEGER NOT NULL REFERENCES vtiger_potential(potentialid) ON DELETE CASCADE, PRIMARY KEY (contactid, potentialid));
            CREATE TABLE vtiger_activity(activityid INTEGER PRIMARY KEY REFERENCES vtiger_crmentity(crmid) ON DELETE CASCADE, subject VARCHAR(100) NOT NULL);
            CREATE TABLE vtiger_seactivityrel(crmid INTEGER REFERENCES vtiger_crmentity(crmid) ON DELETE CASCADE,
              activityid INTEGER REFERENCES vtiger_activity(activityid) ON DELETE CASCADE, PRIMARY KEY (crmid, activityid));
            CREATE TABLE vtiger_quotes(quoteid INTEGER PRIMARY KEY REFERENCES vtiger_crmentity(crmid) ON DELETE CASCADE, subject VARCHAR(100),
              potentialid INTEGER REFERENCES vtiger_potential(potentialid) ON DELETE CASCADE, accountid INTEGER);
            CREATE TABLE vtiger_quotesbillads(quotebilladdressid INTEGER PRIMARY KEY REFERENCES vtiger_quotes(quoteid) ON DELETE CASCADE, bill_city VARCHAR(30));
            CREATE TABLE vtiger_inventoryproductrel(id INTEGER, productid INTEGER, quantity NUMERIC(25,3), lineitem_id INTEGER PRIMARY KEY);
            INSERT INTO vtiger_crmentity(crmid, setype, deleted) VALUES (5,'Accounts',0), (6,'Accounts',0), (7,'Contacts',0), (8,'Potentials',0), (9,'Calendar',0), (10,'Contacts',1),
              (11,'Quotes',0), (12,'Quotes',0);
            INSERT INTO vtiger_account VALUES (5,'ACC5','Acme',0,'+1',NULL), (6,'ACC6','Other',5,NULL,NULL);
            INSERT INTO vtiger_accountbillads VALUES (5,'Łódź'), (6,NULL);
            INSERT INTO vtiger_accountscf VALUES (5), (6);
            INSERT INTO vtiger_contactdetails VALUES (7,'CON7',5,'Ann','0'), (10,'CON10',6,'Gone long ago','7');
            INSERT INTO vtiger_potential VALUES (8,'POT8',5,'Deal',10.5);
            INSERT INTO vtiger_contpotentialrel VALUES (7,8);
            INSERT INTO vtiger_quotes VALUES (11,'Offer',8,5), (12,'Other offer',NULL,6); INSERT INTO vtiger_quotesbillads VALUES (11,'Łódź'), (12,NULL);
            INSERT INTO vtiger_inventoryproductrel VALUES (11,NULL,2,1), (12,NULL,3,2);
            INSERT INTO vtiger_activity VALUES (9,'call'); INSERT INTO vtiger_seactivityrel VALUES (5,9);",
        accident: "UPDATE vtiger_crmentity SET deleted = 1 WHERE crmid IN (5, 8, 11); UPDATE vtiger_contactdetails SET accountid = 0 WHERE contactid = 7",
        table: "vtiger_account",
        key: "5",
    })
    .await;
}

/// espocrm/espocrm, application/Espo/Modules/Crm/Resources/metadata/entityDefs/Contact.json
/// (fddd233e) and Case.json (b1076ba1). Deletion is a flag of the record; its links stay.
#[tokio::test(flavor = "multi_thread")]
async fn contact_of_espocrm_comes_back_with_its_notes() {
    comes_back(&Case {
        list: "EspoCRM",
        script: "
            CREATE TABLE account(id VARCHAR(17) PRIMARY KEY NOT NULL, name VARCHAR(249), deleted TINYINT(1) DEFAULT 0);
            CREATE TABLE contact(id VARCHAR(17) PRIMARY KEY NOT NULL, deleted TINYINT(1) DEFAULT 0, first_name VARCHAR(100), last_name VARCHAR(100),
              account_id VARCHAR(17), campaign_id VARCHAR(17));
            CREATE TABLE account_contact(id INTEGER PRIMARY KEY, account_id VARCHAR(17), contact_id VARCHAR(17), role VARCHAR(100),
              is_inactive TINYINT(1) DEFAULT 0, deleted TINYINT(1) DEFAULT 0);
            CREATE TABLE entity_email_address(id INTEGER PRIMARY KEY, entity_id VARCHAR(17), email_address_id VARCHAR(17), entity_type VARCHAR(100),
              \"primary\" TINYINT(1) DEFAULT 0, deleted TINYINT(1) DEFAULT 0);
            CREATE TABLE email_address(id VARCHAR(17) PRIMARY KEY NOT NULL, name VARCHAR(255), lower VARCHAR(255), deleted TINYINT(1) DEFAULT 0);
            CREATE TABLE \"case\"(id VARCHAR(17) PRIMARY KEY NOT NULL, name VARCHAR(255), deleted TINYINT(1) DEFAULT 0, account_id VARCHAR(17),
              lead_id VARCHAR(17), contact_id VARCHAR(17));
            CREATE TABLE case_contact(id INTEGER PRIMARY KEY, case_id VARCHAR(17), contact_id VARCHAR(17), deleted TINYINT(1) DEFAULT 0);
            CREATE TABLE note(id VARCHAR(17) PRIMARY KEY NOT NULL, deleted TINYINT(1) DEFAULT 0, post TEXT, parent_id VARCHAR(17), parent_type VARCHAR(100));
            INSERT INTO account VALUES ('a1','Acme',0);
            INSERT INTO contact VALUES ('c1',0,'Ann','Łąka','a1',NULL), ('c2',0,'Bob','B','a1',NULL);
            INSERT INTO account_contact VALUES (1,'a1','c1','boss',0,0), (2,'a1','c2',NULL,0,0);
            INSERT INTO email_address VALUES ('e1','Ann@example.org','ann@example.org',0);
            INSERT INTO entity_email_address VALUES (1,'c1','e1','Contact',1,0);
            INSERT INTO \"case\" VALUES ('k1','broken',0,'a1',NULL,'c1'), ('k2','fine',0,'a1',NULL,'c2');
            INSERT INTO case_contact VALUES (1,'k1','c1',0);
            INSERT INTO note VALUES ('n1',0,'called','c1','Contact'), ('n2',0,'other','c2','Contact');",
        accident: "UPDATE contact SET deleted = 1 WHERE id = 'c1'; UPDATE account_contact SET deleted = 1 WHERE contact_id = 'c1';
            DELETE FROM entity_email_address WHERE entity_id = 'c1'; DELETE FROM note WHERE parent_id = 'c1';
            UPDATE \"case\" SET contact_id = NULL WHERE contact_id = 'c1'; DELETE FROM case_contact WHERE contact_id = 'c1'",
        table: "contact",
        key: "c1",
    })
    .await;
}

/// salesagility/SuiteCRM, modules/{Accounts,Contacts}/vardefs.php (0bfc8d9a), Cases (05a6ec95),
/// AOS_Quotes (179ad40f), AOS_Products_Quotes (17d6b90e), AOP_Case_Updates (20cfb1dd), and
/// metadata/{audit_template,prospect_lists_prospects}MetaData.php (0bfc8d9a). Deletion is a flag; what
/// is pruned later is gone.
#[tokio::test(flavor = "multi_thread")]
async fn account_of_suitecrm_comes_back_with_its_quotes_and_its_audit() {
    comes_back(&Case {
        list: "SuiteCRM",
        script: "
            CREATE TABLE accounts(id CHAR(36) PRIMARY KEY NOT NULL, name VARCHAR(150), deleted TINYINT(1) DEFAULT 0, parent_id CHAR(36));
            CREATE TABLE accounts_audit(id CHAR(36) PRIMARY KEY NOT NULL, parent_id CHAR(36) NOT NULL, field_name VARCHAR(100), before_value_string VARCHAR(255));
            CREATE TABLE contacts(id CHAR(36) PRIMARY KEY NOT NULL, last_name VARCHAR(100), deleted TINYINT(1) DEFAULT 0, reports_to_id CHAR(36));
            CREATE TABLE email_addr_bean_rel(id CHAR(36) PRIMARY KEY NOT NULL, email_address_id CHAR(36) NOT NULL, bean_id CHAR(36) NOT NULL,
              bean_module VARCHAR(100), deleted TINYINT(1) DEFAULT 0);
            CREATE TABLE acl_roles(id CHAR(36) PRIMARY KEY NOT NULL, name VARCHAR(150), deleted TINYINT(1) DEFAULT 0);
            CREATE TABLE aos_quotes(id CHAR(36) PRIMARY KEY NOT NULL, name VARCHAR(255), deleted TINYINT(1) DEFAULT 0, billing_account_id CHAR(36),
              billing_contact_id CHAR(36), opportunity_id CHAR(36));
            CREATE TABLE aos_products_quotes(id CHAR(36) PRIMARY KEY NOT NULL, name TEXT, deleted TINYINT(1) DEFAULT 0, parent_type VARCHAR(100),
              parent_id CHAR(36), product_id CHAR(36), group_id CHAR(36));
            CREATE TABLE cases(id CHAR(36) PRIMARY KEY NOT NULL, name VARCHAR(255), deleted TINYINT(1) DEFAULT 0, account_id CHAR(36), contact_created_by_id CHAR(36));
            CREATE TABLE aop_case_updates(id CHAR(36) PRIMARY KEY NOT NULL, name VARCHAR(255), deleted TINYINT(1) DEFAULT 0, case_id CHAR(36), contact_id CHAR(36));
            CREATE TABLE prospect_lists(id CHAR(36) PRIMARY KEY NOT NULL, name VARCHAR(100), deleted TINYINT(1) DEFAULT 0);
            CREATE TABLE prospect_lists_prospects(id VARCHAR(36) PRIMARY KEY NOT NULL, prospect_list_id VARCHAR(36), related_id VARCHAR(36),
              related_type VARCHAR(25), deleted TINYINT(1) DEFAULT 0);
            INSERT INTO accounts VALUES ('a1','Acme',0,NULL), ('a2','Other',0,'');
            INSERT INTO accounts_audit VALUES ('u1','a1','name','Acme Łtd'), ('u2','a2','name','x');
            INSERT INTO contacts VALUES ('c1','Ann',0,NULL);
            INSERT INTO aos_quotes VALUES ('q1','Offer',0,'a1','c1',''), ('q2','Offer',0,'a2','c1',NULL);
            INSERT INTO aos_products_quotes VALUES ('i1','Chair',0,'AOS_Quotes','q1','0',NULL), ('i2','Desk',0,'AOS_Quotes','q2','0',NULL), ('i3','Lamp',0,'AOS_Invoices','q1','0',NULL);
            INSERT INTO cases VALUES ('k1','broken',0,'a1','c1'), ('k2','fine',0,'a2',NULL);
            INSERT INTO aop_case_updates VALUES ('w1','why',0,'k1','c1'), ('w2','so',0,'k2','');
            INSERT INTO prospect_lists VALUES ('p1','Fair',0);
            INSERT INTO prospect_lists_prospects VALUES ('l1','p1','a1','Accounts',0), ('l2','p1','c1','Contacts',0);",
        accident: "UPDATE accounts SET deleted = 1 WHERE id = 'a1'; UPDATE prospect_lists_prospects SET deleted = 1 WHERE related_id = 'a1';
            UPDATE cases SET deleted = 1 WHERE id = 'k1'; DELETE FROM aop_case_updates WHERE case_id = 'k1'; DELETE FROM accounts_audit WHERE parent_id = 'a1';
            DELETE FROM aos_products_quotes WHERE id = 'i1'; DELETE FROM aos_quotes WHERE id = 'q1'",
        table: "accounts",
        key: "a1",
    })
    .await;
}

/// odoo/odoo, addons/mail/models/mail_followers.py (00524a37), mail_message.py,
/// odoo/addons/base/models/ir_attachment.py: documents hang on a model's name and an id.
#[tokio::test(flavor = "multi_thread")]
async fn partner_of_odoo_comes_back_with_its_documents() {
    comes_back(&Case {
        list: "Odoo",
        script: "
            CREATE TABLE ir_model(id INTEGER PRIMARY KEY, model VARCHAR NOT NULL, name VARCHAR);
            CREATE TABLE res_partner(id INTEGER PRIMARY KEY, name VARCHAR, parent_id INTEGER REFERENCES res_partner(id) ON DELETE SET NULL, active BOOLEAN);
            CREATE TABLE ir_attachment(id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, res_model VARCHAR, res_id INTEGER, res_field VARCHAR, type VARCHAR NOT NULL);
            CREATE TABLE mail_message(id INTEGER PRIMARY KEY, model VARCHAR, res_id INTEGER, body TEXT, author_id INTEGER REFERENCES res_partner(id) ON DELETE SET NULL);
            CREATE TABLE mail_followers(id INTEGER PRIMARY KEY, res_model VARCHAR NOT NULL, res_id INTEGER, partner_id INTEGER REFERENCES res_partner(id) ON DELETE CASCADE);
            CREATE TABLE crm_lead(id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, partner_id INTEGER REFERENCES res_partner(id) ON DELETE SET NULL);
            INSERT INTO ir_model VALUES (1,'res.partner','Contact'), (2,'crm.lead','Lead');
            INSERT INTO res_partner VALUES (7,'Acme',NULL,1), (8,'Ann',7,1), (9,'Bob',NULL,1);
            INSERT INTO ir_attachment VALUES (1,'a.pdf','res.partner',7,NULL,'binary'), (2,'b.pdf','crm.lead',7,NULL,'binary'), (3,'c.pdf','res.partner',9,NULL,'binary');
            INSERT INTO mail_message VALUES (1,'res.partner',7,'hello',9), (2,'crm.lead',7,'lead',7), (3,'res.partner',9,'x',NULL);
            INSERT INTO mail_followers VALUES (1,'res.partner',7,9), (2,'crm.lead',7,7), (3,'res.partner',9,9);
            INSERT INTO crm_lead VALUES (7,'Big one',7), (8,'Small',9);",
        accident: "DELETE FROM mail_message WHERE model = 'res.partner' AND res_id = 7; DELETE FROM ir_attachment WHERE res_model = 'res.partner' AND res_id = 7;
            DELETE FROM mail_followers WHERE res_model = 'res.partner' AND res_id = 7; DELETE FROM res_partner WHERE id = 7",
        table: "res_partner",
        key: "7",
    })
    .await;
}

/// Dolibarr/dolibarr, htdocs/install/mysql/tables/llx_actioncomm.sql (02ba7450),
/// llx_actioncomm_resources.sql (154a75cc), llx_categorie_societe.sql (07c1fee8),
/// llx_element_contact.sql (01691ed9), llx_element_element.sql (03711cf6), llx_ticket-ticket.key.sql
/// (02cf757f), llx_societe_remise.sql (1372e334), llx_links.sql (a4305347).
#[tokio::test(flavor = "multi_thread")]
async fn third_party_of_dolibarr_comes_back_with_its_events() {
    comes_back(&Case {
        list: "Dolibarr",
        script: "
            CREATE TABLE llx_societe(rowid INTEGER PRIMARY KEY AUTOINCREMENT, nom VARCHAR(128), parent INTEGER);
            CREATE TABLE llx_societe_extrafields(rowid INTEGER PRIMARY KEY AUTOINCREMENT, fk_object INTEGER NOT NULL, import_key VARCHAR(14));
            CREATE TABLE llx_propal_extrafields(rowid INTEGER PRIMARY KEY AUTOINCREMENT, fk_object INTEGER NOT NULL, import_key VARCHAR(14));
            CREATE TABLE llx_societe_remise(rowid INTEGER PRIMARY KEY AUTOINCREMENT, fk_soc INTEGER NOT NULL, remise_client NUMERIC(7,4) NOT NULL DEFAULT 0);
            CREATE TABLE llx_ticket(rowid INTEGER PRIMARY KEY AUTOINCREMENT, ref VARCHAR(128) NOT NULL, fk_soc INTEGER, fk_project INTEGER);
            CREATE TABLE llx_links(rowid INTEGER PRIMARY KEY AUTOINCREMENT, url VARCHAR(255) NOT NULL, objecttype VARCHAR(255) NOT NULL, objectid INTEGER NOT NULL);
            CREATE TABLE llx_socpeople(rowid INTEGER PRIMARY KEY AUTOINCREMENT, fk_soc INTEGER, lastname VARCHAR(50));
            CREATE TABLE llx_categorie_societe(fk_categorie INTEGER NOT NULL, fk_soc INTEGER NOT NULL, import_key VARCHAR(14), PRIMARY KEY (fk_categorie, fk_soc));
            CREATE TABLE llx_propal(rowid INTEGER PRIMARY KEY AUTOINCREMENT, ref VARCHAR(30) NOT NULL, fk_soc INTEGER);
            CREATE TABLE llx_facture(rowid INTEGER PRIMARY KEY AUTOINCREMENT, ref VARCHAR(30) NOT NULL, fk_soc INTEGER NOT NULL);
            CREATE TABLE llx_element_element(rowid INTEGER PRIMARY KEY AUTOINCREMENT, fk_source INTEGER NOT NULL, sourcetype VARCHAR(16) NOT NULL,
              fk_target INTEGER NOT NULL, targettype VARCHAR(16) NOT NULL);
            CREATE TABLE llx_element_contact(rowid INTEGER PRIMARY KEY AUTOINCREMENT, datecreate DATETIME, statut SMALLINT DEFAULT 5, element_id INT NOT NULL,
              fk_c_type_contact INT NOT NULL, fk_socpeople INTEGER NOT NULL);
            CREATE TABLE llx_actioncomm(id INTEGER PRIMARY KEY AUTOINCREMENT, ref_ext VARCHAR(255), datep DATETIME, fk_project INTEGER, fk_soc INTEGER, fk_contact INTEGER,
              label VARCHAR(255) NOT NULL, note TEXT, fk_element INTEGER DEFAULT NULL, elementtype VARCHAR(255) DEFAULT NULL);
            CREATE TABLE llx_actioncomm_resources(rowid INTEGER PRIMARY KEY AUTOINCREMENT, fk_actioncomm INTEGER NOT NULL, element_type VARCHAR(50) NOT NULL, fk_element INTEGER NOT NULL);
            INSERT INTO llx_societe VALUES (1,'Acme',NULL), (2,'Other',NULL);
            INSERT INTO llx_societe_extrafields VALUES (1,1,NULL), (2,2,NULL);
            INSERT INTO llx_socpeople VALUES (1,1,'Ann'), (2,2,'Bob');
            INSERT INTO llx_categorie_societe VALUES (3,1,NULL), (3,2,NULL);
            INSERT INTO llx_propal VALUES (1,'PR1',1), (2,'PR2',2); INSERT INTO llx_facture VALUES (1,'FA1',1), (2,'FA2',2);
            INSERT INTO llx_propal_extrafields VALUES (1,1,NULL), (2,2,NULL); INSERT INTO llx_societe_remise VALUES (1,1,5), (2,2,7);
            INSERT INTO llx_ticket VALUES (1,'TS1',1,NULL), (2,'TS2',2,0);
            INSERT INTO llx_links VALUES (1,'https://acme.example','societe',1), (2,'https://x.example','ticket',1), (3,'https://y.example','societe',2);
            INSERT INTO llx_element_element VALUES (1,1,'propal',1,'facture'), (2,2,'propal',2,'facture');
            INSERT INTO llx_element_contact VALUES (1,NULL,4,1,9,1), (2,NULL,4,2,9,2);
            INSERT INTO llx_actioncomm VALUES (1,NULL,NULL,NULL,1,1,'call',NULL,NULL,NULL), (2,NULL,NULL,NULL,NULL,NULL,'sent',NULL,1,'facture'), (3,NULL,NULL,NULL,2,2,'x',NULL,NULL,NULL);
            INSERT INTO llx_actioncomm_resources VALUES (1,1,'socpeople',1), (2,3,'socpeople',2);",
        accident: "DELETE FROM llx_links WHERE rowid IN (1, 2); DELETE FROM llx_ticket WHERE fk_soc = 1; DELETE FROM llx_societe_remise WHERE fk_soc = 1;
            DELETE FROM llx_propal_extrafields WHERE fk_object = 1; DELETE FROM llx_actioncomm_resources WHERE fk_actioncomm = 1; DELETE FROM llx_actioncomm WHERE id IN (1, 2);
            DELETE FROM llx_element_contact WHERE fk_socpeople = 1; DELETE FROM llx_element_element WHERE fk_source = 1; DELETE FROM llx_facture WHERE fk_soc = 1;
            DELETE FROM llx_propal WHERE fk_soc = 1; DELETE FROM llx_categorie_societe WHERE fk_soc = 1; DELETE FROM llx_socpeople WHERE fk_soc = 1;
            DELETE FROM llx_societe_extrafields WHERE fk_object = 1; DELETE FROM llx_societe WHERE rowid = 1",
        table: "llx_societe",
        key: "1",
    })
    .await;
}

/// twentyhq/twenty, packages/twenty-server/src/modules/*/standard-objects/*.workspace-entity.ts
/// (01abd1ff): a time of deletion, and targets with a column for each kind of record.
#[tokio::test(flavor = "multi_thread")]
async fn company_of_twenty_comes_back_with_its_targets() {
    comes_back(&Case {
        list: "Twenty",
        script: "
            CREATE TABLE company(id UUID PRIMARY KEY NOT NULL, name TEXT, \"deletedAt\" TIMESTAMPTZ);
            CREATE TABLE person(id UUID PRIMARY KEY NOT NULL, \"nameFirstName\" TEXT, \"companyId\" UUID, \"deletedAt\" TIMESTAMPTZ);
            CREATE TABLE opportunity(id UUID PRIMARY KEY NOT NULL, name TEXT, \"pointOfContactId\" UUID, \"companyId\" UUID, \"deletedAt\" TIMESTAMPTZ);
            CREATE TABLE note(id UUID PRIMARY KEY NOT NULL, title TEXT, \"deletedAt\" TIMESTAMPTZ);
            CREATE TABLE task(id UUID PRIMARY KEY NOT NULL, title TEXT, \"deletedAt\" TIMESTAMPTZ);
            CREATE TABLE \"noteTarget\"(id UUID PRIMARY KEY NOT NULL, \"noteId\" UUID, \"personId\" UUID, \"companyId\" UUID, \"opportunityId\" UUID, \"deletedAt\" TIMESTAMPTZ);
            CREATE TABLE \"taskTarget\"(id UUID PRIMARY KEY NOT NULL, \"taskId\" UUID, \"personId\" UUID, \"companyId\" UUID, \"opportunityId\" UUID, \"deletedAt\" TIMESTAMPTZ);
            CREATE TABLE attachment(id UUID PRIMARY KEY NOT NULL, name TEXT, \"taskId\" UUID, \"noteId\" UUID, \"personId\" UUID, \"companyId\" UUID, \"opportunityId\" UUID, \"deletedAt\" TIMESTAMPTZ);
            CREATE TABLE \"timelineActivity\"(id UUID PRIMARY KEY NOT NULL, name TEXT, \"targetPersonId\" UUID, \"targetCompanyId\" UUID, \"targetOpportunityId\" UUID, \"deletedAt\" TIMESTAMPTZ);
            INSERT INTO company VALUES ('c1','Acme',NULL), ('c2','Other',NULL), ('c3','Gone','2026-01-01');
            INSERT INTO person VALUES ('p1','Ann','c1',NULL), ('p2','Bob','c2',NULL);
            INSERT INTO opportunity VALUES ('o1','Big','p1','c1',NULL), ('o2','Small','p2','c2',NULL);
            INSERT INTO note VALUES ('n1','hello',NULL); INSERT INTO task VALUES ('t1','do',NULL);
            INSERT INTO \"noteTarget\" VALUES ('x1','n1',NULL,'c1',NULL,NULL), ('x2','n1','p2',NULL,NULL,NULL);
            INSERT INTO \"taskTarget\" VALUES ('y1','t1',NULL,NULL,'o1',NULL);
            INSERT INTO attachment VALUES ('z1','a.pdf',NULL,NULL,NULL,'c1',NULL,NULL);
            INSERT INTO \"timelineActivity\" VALUES ('l1','made',NULL,'c1',NULL,NULL), ('l2','made',NULL,'c2',NULL,NULL);",
        accident: "UPDATE company SET \"deletedAt\" = '2026-11-22' WHERE id = 'c1'; UPDATE opportunity SET \"deletedAt\" = '2026-11-22' WHERE id = 'o1';
            DELETE FROM \"noteTarget\" WHERE \"companyId\" = 'c1'; DELETE FROM \"taskTarget\" WHERE \"opportunityId\" = 'o1';
            DELETE FROM attachment WHERE \"companyId\" = 'c1'; DELETE FROM \"timelineActivity\" WHERE \"targetCompanyId\" = 'c1'; UPDATE person SET \"companyId\" = NULL WHERE id = 'p1'",
        table: "company",
        key: "c1",
    })
    .await;
}

/// django/django, django/contrib/contenttypes/migrations/0001_initial.py (0ed7d155) and 0002: rows
/// refer through the number of a content type, which the rows themselves tell.
#[tokio::test(flavor = "multi_thread")]
async fn record_of_a_django_application_comes_back_with_what_names_its_type() {
    comes_back(&Case {
        list: "Django",
        script: "
            CREATE TABLE django_migrations(id INTEGER PRIMARY KEY AUTOINCREMENT, app VARCHAR(255) NOT NULL, name VARCHAR(255) NOT NULL, applied DATETIME NOT NULL);
            CREATE TABLE django_content_type(id INTEGER PRIMARY KEY AUTOINCREMENT, app_label VARCHAR(100) NOT NULL, model VARCHAR(100) NOT NULL);
            CREATE TABLE crm_customer(id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR(100) NOT NULL);
            CREATE TABLE crm_deal(id INTEGER PRIMARY KEY AUTOINCREMENT, customer_id BIGINT NOT NULL REFERENCES crm_customer(id) DEFERRABLE INITIALLY DEFERRED);
            CREATE TABLE notes_note(id INTEGER PRIMARY KEY AUTOINCREMENT, object_id INTEGER UNSIGNED NOT NULL, body TEXT NOT NULL,
              content_type_id INTEGER NOT NULL REFERENCES django_content_type(id) DEFERRABLE INITIALLY DEFERRED);
            INSERT INTO django_content_type VALUES (8,'crm','customer'), (9,'crm','deal');
            INSERT INTO crm_customer VALUES (1,'Acme'), (2,'Other'); INSERT INTO crm_deal VALUES (1,1), (2,2);
            INSERT INTO notes_note VALUES (1,1,'of the customer',8), (2,1,'of the deal',9), (3,2,'of another',8);",
        accident: "DELETE FROM notes_note WHERE id IN (1, 2); DELETE FROM crm_deal WHERE id = 1; DELETE FROM crm_customer WHERE id = 1",
        table: "crm_customer",
        key: "1",
    })
    .await;
}
