//! Whether a database is empty, and making it empty again.
//!
//! A restore into an existing database fills it in place; when it fails, what it made must go
//! and what was there before must stay. Invariant: `sweep` is only called for a database that
//! `find` has called empty, so everything in it is ours.

use super::catalog::texts;
use super::client::Client;
use super::error::Error;
use super::quote::{self, identifier, literal};

/// What a user may have made, as (kind, name): anything that is not the server's own, part of an
/// extension, or the `public` schema itself.
const MADE: &str = "\
WITH own AS (SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e') \
SELECT 'schema', nspname::text FROM pg_catalog.pg_namespace n WHERE nspname !~ '^pg_' \
 AND nspname NOT IN ('information_schema', 'public') AND NOT EXISTS (SELECT FROM own \
 WHERE own.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND own.objid = n.oid) \
UNION ALL SELECT 'relation', n.nspname || '.' || c.relname FROM pg_catalog.pg_class c \
 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_' \
 AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM own \
 WHERE own.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND own.objid = c.oid) \
UNION ALL SELECT 'function', n.nspname || '.' || p.proname FROM pg_catalog.pg_proc p \
 JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^pg_' \
 AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM own \
 WHERE own.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND own.objid = p.oid) \
UNION ALL SELECT 'type', n.nspname || '.' || t.typname FROM pg_catalog.pg_type t \
 JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname !~ '^pg_' \
 AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM own \
 WHERE own.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND own.objid = t.oid) \
 AND t.typtype IN ('d', 'e', 'r') \
UNION ALL SELECT 'extension', extname::text FROM pg_catalog.pg_extension \
 WHERE extname <> 'plpgsql' \
UNION ALL SELECT 'large object', oid::text FROM pg_catalog.pg_largeobject_metadata \
UNION ALL SELECT 'publication', pubname::text FROM pg_catalog.pg_publication \
UNION ALL SELECT 'event trigger', evtname::text FROM pg_catalog.pg_event_trigger e \
 WHERE NOT EXISTS (SELECT FROM own WHERE own.objid = e.oid \
 AND own.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass) \
UNION ALL SELECT 'foreign data wrapper', fdwname::text FROM pg_catalog.pg_foreign_data_wrapper f \
 WHERE NOT EXISTS (SELECT FROM own WHERE own.objid = f.oid \
 AND own.classid = 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass)";

/// Something in the database, as `kind name`; none where it is empty.
pub async fn find(client: &mut Client) -> Result<Option<String>, Error> {
    let sql = format!("SELECT * FROM ({MADE}) AS made LIMIT 1");
    let rows = client
        .rows(&sql, "looking whether the database is empty")
        .await?;
    Ok(rows.into_iter().next().map(|row| {
        let [kind, name] = texts(row);
        format!("{kind} {name}")
    }))
}

/// What an archive changes of the `public` schema, which stays where everything else goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Public {
    /// Its owner; none where there is no such schema.
    owner: Option<String>,
    comment: Option<String>,
}

const PUBLIC: &str = "\
SELECT pg_catalog.pg_get_userbyid(nspowner)::text, \
 pg_catalog.obj_description(oid, 'pg_namespace') \
FROM pg_catalog.pg_namespace WHERE nspname = 'public'";

/// How the `public` schema is now.
pub async fn public(client: &mut Client) -> Result<Public, Error> {
    let rows = client.rows(PUBLIC, "looking at the public schema").await?;
    let mut cells = rows.into_iter().next().unwrap_or_default().into_iter();
    Ok(Public {
        owner: cells.next().flatten(),
        comment: cells.next().flatten(),
    })
}

/// Gives the `public` schema what of it was changed.
async fn put_back(client: &mut Client, public: &Public, doing: &str) -> Result<(), Error> {
    let found = self::public(client).await?;
    if let Some(owner) = public
        .owner
        .as_ref()
        .filter(|_| found.owner != public.owner)
    {
        let sql = format!("ALTER SCHEMA public OWNER TO {}", identifier(owner));
        client.run(&sql, doing).await?;
    }
    if found.owner.is_some() && found.comment != public.comment {
        let comment = public.comment.as_deref().map_or("NULL".into(), literal);
        let sql = format!("COMMENT ON SCHEMA public IS {comment}");
        client.run(&sql, doing).await?;
    }
    Ok(())
}

/// Drops everything that a restore has made in a database that was empty, whose `public` schema was
/// as it says.
///
/// # Errors
/// As the server says; what is left is then for a person.
pub async fn sweep(client: &mut Client, public: &Public) -> Result<(), Error> {
    let doing = "taking away what was restored";
    for row in client.rows(DROPS, doing).await? {
        let [statement] = texts(row);
        client.run(&statement, doing).await?;
    }
    let objects = "SELECT pg_catalog.count(pg_catalog.lo_unlink(oid))::text \
     FROM pg_catalog.pg_largeobject_metadata";
    client.run(objects, doing).await?;
    put_back(client, public, doing).await?;
    match find(client).await? {
        None => Ok(()),
        Some(left) => Err(Error::stated(
            crate::failure::Class::Conflict,
            format!("{left} is left over in database {}", client.database()),
            format!(
                "drop database {} and make it again",
                quote::identifier(client.database())
            ),
        )),
    }
}

/// One DROP statement a row: what hinders other drops first, then schemas with all in them. The
/// `public` schema is made again as it was, with its owner and rights, by keeping it and dropping
/// what is in it.
const DROPS: &str = "\
SELECT pg_catalog.format('DROP EVENT TRIGGER %I', evtname) FROM pg_catalog.pg_event_trigger e \
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = e.oid AND d.deptype = 'e') \
UNION ALL SELECT pg_catalog.format('DROP PUBLICATION %I', pubname) FROM pg_catalog.pg_publication \
UNION ALL SELECT pg_catalog.format('DROP SCHEMA %I CASCADE', nspname) \
 FROM pg_catalog.pg_namespace n WHERE nspname !~ '^pg_' \
 AND nspname NOT IN ('information_schema', 'public') AND NOT EXISTS (SELECT FROM \
 pg_catalog.pg_depend d WHERE d.objid = n.oid AND d.deptype = 'e' \
 AND d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass) \
UNION ALL SELECT pg_catalog.format('DROP EXTENSION IF EXISTS %I CASCADE', extname) \
 FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql' \
UNION ALL SELECT pg_catalog.format('DROP FOREIGN DATA WRAPPER IF EXISTS %I CASCADE', fdwname) \
 FROM pg_catalog.pg_foreign_data_wrapper \
UNION ALL SELECT pg_catalog.format('DROP %s IF EXISTS public.%I CASCADE', CASE relkind \
 WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' \
 WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, relname) \
 FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.to_regnamespace('public') \
 AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') \
UNION ALL SELECT pg_catalog.format('DROP ROUTINE IF EXISTS %s CASCADE', \
 oid::pg_catalog.regprocedure) FROM pg_catalog.pg_proc \
 WHERE pronamespace = pg_catalog.to_regnamespace('public') \
UNION ALL SELECT pg_catalog.format('DROP TYPE IF EXISTS public.%I CASCADE', typname) \
 FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.to_regnamespace('public') \
 AND typtype IN ('d', 'e', 'r', 'b') AND typelem = 0";
