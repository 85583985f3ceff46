-- Every case of the fault list that one PostgreSQL database can hold. Loaded by psql.
SET client_min_messages = error;
SET search_path = public;

-- Extensions and their types.
CREATE SCHEMA ext;
CREATE EXTENSION IF NOT EXISTS hstore SCHEMA ext;
CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS postgres_fdw;

-- Values.
CREATE TABLE numbers (id int PRIMARY KEY, f4 float4, f8 float8, n numeric, n2 numeric(30,10), m money, b bool, i8 bigint, o oid);
INSERT INTO numbers VALUES
 (1, 'NaN', 'NaN', 'NaN', 0, '-12.34', true, 9223372036854775807, 4294967295),
 (2, 'Infinity', '-Infinity', 'Infinity', -1.5, '92233720368547758.07', false, -9223372036854775808, 0),
 (3, '-0', '-0', '-Infinity', 1e-10, 0, NULL, 0, 1),
 (4, '1.1754944e-38', '5e-324', '1e-1000', NULL, NULL, true, 1, 2),
 (5, '3.4028235e+38', '1.7976931348623157e308', 1e1000, 99999999999999999999.9999999999, 1, true, 1, 2),
 (6, 0.1, 0.1, 0.10, 0.10, 1, true, 1, 2);
CREATE TABLE times (id int PRIMARY KEY, d date, t time(6), tz timetz, ts timestamp, tstz timestamptz, i interval, iy interval year to month);
INSERT INTO times VALUES
 (1, 'infinity', '24:00:00', '23:59:59.999999+15:59', 'infinity', '-infinity', '1 year -2 months +3 days -04:05:06.789', '3 years -1 month'),
 (2, '4713-01-01 BC', '00:00', '00:00-15:59:59', '4713-01-01 00:00:00 BC', '4713-11-25 00:00:00+00 BC', '-1 days +23:59:59.999999', NULL),
 (3, '5874897-12-31', '12:34:56.000001', '12:00+00', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', '178000000 years', '-178000000 years'),
 (4, NULL, NULL, NULL, NULL, NULL, '00:00:00', '0');
CREATE TYPE mood AS ENUM ('sad', 'it''s, "ok"', '');
CREATE TYPE pair AS (a int, "B ""x" text, c int[]);
CREATE TYPE nested AS (p pair, ps pair[]);
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN posint2 AS posint CHECK (VALUE < 1000000);
CREATE DOMAIN label AS text COLLATE "C" DEFAULT 'none' NOT NULL;
CREATE TYPE floatrange AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TABLE shapes (id posint2 PRIMARY KEY, m mood, p pair, ns nested, ps pair[], l label, a int[], a3 text[], a2 int[][], ms mood[],
 r int4range, nr numrange, tr tstzrange, fr floatrange, mr int8multirange, j json, jb jsonb, x xml, bt bit(9), vb bit varying(20),
 h ext.hstore, ci citext, u uuid, net inet, c cidr, mac macaddr8, pt point, poly polygon, circ circle, tv tsvector, tq tsquery, bp char(5), ch "char", nm name,
 lsn pg_lsn, xid8 xid8, jp jsonpath, by bytea, vc varchar(3));
INSERT INTO shapes VALUES (1, 'it''s, "ok"', ROW(1, E'q"\\ \t,()', '{1,NULL}'), ROW(ROW(NULL,'',NULL)::pair, ARRAY[ROW(1,'x',NULL)::pair]), ARRAY[ROW(2,E'a"b\\',NULL)::pair, NULL],
 '', '[-2:0]={1,NULL,3}', ARRAY['NULL', NULL, '', '"', '\', ' ', 'a,b', E'\n'], '{{1,2},{3,NULL}}', '{sad,""}',
 'empty', '(,1.5]', '[2020-01-01 00:00+00, infinity)', '[0.1,0.2]', '{[1,3),[7,)}', '{"a": 1, "a" : 2,  "b":[ ]}', '{"a": 1e3, "\u00e9": null}', '<a b="c">é &amp; <!-- x --></a>text',
 B'101010101', B'', 'a=>NULL, "b \"q"=>"x\\y"', 'CaSe', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '192.168.1.1/24', '10.0.0.0/8', '08:00:2b:01:02:03:04:05',
 '(1.5,-0)', '((0,0),(1,1),(1,0))', '<(0,0),1e-300>', $$'a b':1A,2 'it''s':3$$, $$'fat' & ! 'it''s':AB$$, 'ab', '\200', 'name', '16/B374D848', '18446744073709551615', '$.a[*] ? (@ > 1)', '\xdeadbeef00', 'a');
INSERT INTO shapes (id, l, bp, by, j) VALUES (2, 'x', '', '', 'null'), (3, E'tab\there nl\nx cr\rx bs\\x \\N \\. \x01 \x7f é 日本 😀', '     ', NULL, '""'), (4, '\N', 'x', '\x00', '0'), (5, '\.', 'x', E'\\x5c2e', '[]');

-- Keys of every kind.
CREATE TABLE key_text (k text PRIMARY KEY, v int);
INSERT INTO key_text SELECT x, 1 FROM unnest(ARRAY['a','B','b','A','ä','Z','z','aa','a a','a-a','', E'\n', E'\\', E'\t', '😀', 'ÿ', 'Ω', '10', '9', '-1']) x;
CREATE TABLE key_char (k char(4) PRIMARY KEY); INSERT INTO key_char VALUES ('a'), ('ab'), (E'a\x01'), ('b');
CREATE TABLE key_bool (k bool, d date, n numeric, PRIMARY KEY (d, k, n)); INSERT INTO key_bool SELECT b, d::date, n FROM unnest('{t,f}'::bool[]) b, generate_series('0099-12-30'::timestamp, '0100-01-03', '1 day') d, unnest('{-1,0,10,9,NaN,1e20}'::numeric[]) n;
CREATE TABLE key_citext (k citext PRIMARY KEY); INSERT INTO key_citext VALUES ('b'), ('A'), ('c'), ('B1');
CREATE TABLE key_inet (k inet PRIMARY KEY, f float8 UNIQUE NOT NULL); INSERT INTO key_inet VALUES ('10.0.0.1', -0.0), ('9.0.0.1/8', 1e300), ('::1', 0.1);
CREATE TABLE key_bytea (k bytea PRIMARY KEY); INSERT INTO key_bytea VALUES (''), ('\x00'), ('\xff'), ('\x0a5c');
CREATE TABLE key_enum (k mood PRIMARY KEY); INSERT INTO key_enum VALUES ('sad'), (''), ('it''s, "ok"');
CREATE TABLE key_ts (k timestamptz PRIMARY KEY); INSERT INTO key_ts VALUES ('infinity'), ('2020-01-01'), ('0001-01-01 BC'), ('-infinity'), ('10000-01-01');
CREATE TABLE key_oid (k oid PRIMARY KEY); INSERT INTO key_oid VALUES (4294967295), (0), (2147483648);
CREATE TABLE key_unique (a int NOT NULL, b text NOT NULL, c int, UNIQUE (b, a), UNIQUE (c)); INSERT INTO key_unique VALUES (1,'x',NULL),(2,'x',NULL),(1,'y',3);
CREATE TABLE key_partial (a int NOT NULL); CREATE UNIQUE INDEX ON key_partial (a) WHERE a > 0; CREATE UNIQUE INDEX ON key_partial ((-a)) WHERE a > 0; INSERT INTO key_partial VALUES (-1), (-1), (1);
CREATE TABLE key_deferred (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, b int NOT NULL UNIQUE DEFERRABLE); INSERT INTO key_deferred VALUES (2, 1), (1, 2);
CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE key_ci (k text COLLATE ci PRIMARY KEY, v text COLLATE "POSIX"); INSERT INTO key_ci VALUES ('b'), ('A'), ('c'), ('B1');

-- Shapes of tables.
CREATE TABLE no_columns (); INSERT INTO no_columns SELECT FROM generate_series(1, 7);
CREATE TABLE all_dropped (a int, b int); INSERT INTO all_dropped VALUES (1,2),(3,4); ALTER TABLE all_dropped DROP a, DROP b;
CREATE TABLE some_dropped (a int, b text, c int DEFAULT 7, d text); INSERT INTO some_dropped VALUES (1,'x',2,'y'); ALTER TABLE some_dropped DROP b; ALTER TABLE some_dropped ADD e int DEFAULT 5; INSERT INTO some_dropped VALUES (NULL, NULL, '', NULL);
CREATE TABLE duplicates (a int, b text); INSERT INTO duplicates SELECT i % 3, NULL FROM generate_series(1, 30) i;
CREATE TABLE nothing (id int PRIMARY KEY, v text);
CREATE TABLE generated (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED, h text); INSERT INTO generated VALUES (1, 5, DEFAULT, 'x'), (2, NULL, DEFAULT, NULL);
CREATE TABLE only_generated (g int GENERATED ALWAYS AS (1) STORED); INSERT INTO only_generated DEFAULT VALUES; INSERT INTO only_generated DEFAULT VALUES;
CREATE TABLE key_generated (a int, g int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY); INSERT INTO key_generated VALUES (1), (2);
CREATE TABLE identity_always (id int GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 5) PRIMARY KEY, v text); INSERT INTO identity_always (v) VALUES ('a'), ('b');
CREATE TABLE identity_default (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY); INSERT INTO identity_default VALUES (DEFAULT), (100);
CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY); INSERT INTO unlogged VALUES (1);
CREATE TABLE parent (id int, v text); CREATE TABLE child (w int) INHERITS (parent); INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (2, 'c', 3);
CREATE TABLE part (a int, b text, c date NOT NULL) PARTITION BY RANGE (a);
CREATE TABLE part_1 (c date NOT NULL, dropped int, b text, a int); ALTER TABLE part_1 DROP dropped; ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20) PARTITION BY LIST (b); CREATE TABLE part_2_x PARTITION OF part_2 FOR VALUES IN ('x', NULL); CREATE TABLE part_2_d PARTITION OF part_2 DEFAULT;
CREATE TABLE part_d PARTITION OF part DEFAULT;
INSERT INTO part SELECT i, CASE i % 3 WHEN 0 THEN 'x' WHEN 1 THEN 'y' END, '2020-01-01' FROM generate_series(-3, 25) i;
CREATE TABLE hashed (id int PRIMARY KEY, v text) PARTITION BY HASH (id); CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1); INSERT INTO hashed SELECT i, i FROM generate_series(1, 20) i;
CREATE INDEX part_idx ON part (c); CREATE INDEX ON ONLY part (b);
DO $$ BEGIN EXECUTE 'CREATE TABLE wide (' || (SELECT string_agg('c' || i || ' int', ',') FROM generate_series(1, 1600) i) || ')'; EXECUTE 'INSERT INTO wide (c1, c1600) VALUES (1, 1600), (NULL, 2)'; END $$;

-- Names.
CREATE SCHEMA "Ünï ""code"" 😀"; CREATE SCHEMA "select";
CREATE TABLE "select"."table" ("column" int PRIMARY KEY, "User" text, "user" text, "a""b" int, "c'd" int, "e\f" int, "g
h" int, "; DROP TABLE x; --" int, "😀" int, "ctid " int);
INSERT INTO "select"."table" VALUES (1, 'U', 'u', 2, 3, 4, 5, 6, 7, 8);
CREATE TABLE "../x" (" " int); CREATE TABLE "Table" (a int); CREATE TABLE "table" (a int); CREATE TABLE "TABLE" (a int); INSERT INTO "Table" VALUES (1); INSERT INTO "table" VALUES (2); INSERT INTO "TABLE" VALUES (3);
CREATE TABLE "Ünï ""code"" 😀"."a.b" (x int PRIMARY KEY); INSERT INTO "Ünï ""code"" 😀"."a.b" VALUES (1);
CREATE TABLE "*" (x int); CREATE TABLE "a?b" (x int); CREATE TABLE "new
line" (x int); INSERT INTO "new
line" VALUES (1);

-- Relations.
CREATE TABLE circ_a (id int PRIMARY KEY, b_id int); CREATE TABLE circ_b (id int PRIMARY KEY, a_id int REFERENCES circ_a DEFERRABLE INITIALLY DEFERRED); ALTER TABLE circ_a ADD FOREIGN KEY (b_id) REFERENCES circ_b ON DELETE SET NULL DEFERRABLE;
BEGIN; INSERT INTO circ_b VALUES (1, 1); INSERT INTO circ_a VALUES (1, 1); COMMIT;
CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE); INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 3);
CREATE TABLE comp (a int, b text, PRIMARY KEY (b, a)); CREATE TABLE "select".comp_ref (x text, y int, FOREIGN KEY (x, y) REFERENCES comp (b, a) MATCH FULL ON UPDATE CASCADE); INSERT INTO comp VALUES (1, 'x'); INSERT INTO "select".comp_ref VALUES ('x', 1), (NULL, NULL);
CREATE TABLE part_ref (id int REFERENCES hashed); INSERT INTO part_ref VALUES (1);
CREATE TABLE unchecked (a int, b int); INSERT INTO unchecked VALUES (-1, 99); ALTER TABLE unchecked ADD CONSTRAINT positive CHECK (a > 0) NOT VALID; ALTER TABLE unchecked ADD FOREIGN KEY (b) REFERENCES tree NOT VALID;
CREATE TABLE excluded_overlap (r int4range, EXCLUDE USING gist (r WITH &&)); INSERT INTO excluded_overlap VALUES ('[1,2)'), ('[2,3)');

-- Triggers, rules, routines that must not fire.
CREATE TABLE fired (what text);
CREATE TABLE triggered (id int PRIMARY KEY);
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.fired VALUES (TG_OP); RETURN NEW; END $$;
INSERT INTO triggered VALUES (1);
CREATE TRIGGER t BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION fire(); ALTER TABLE triggered ENABLE ALWAYS TRIGGER t;
CREATE TRIGGER t2 AFTER INSERT ON triggered FOR EACH STATEMENT EXECUTE FUNCTION fire(); ALTER TABLE triggered DISABLE TRIGGER t2;
CREATE TABLE ruled (a int); INSERT INTO ruled VALUES (1); CREATE RULE r AS ON INSERT TO ruled DO ALSO INSERT INTO fired VALUES ('rule');
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.fired VALUES ('ddl'); END $$;
CREATE PROCEDURE proc(INOUT a int) LANGUAGE sql AS 'SELECT a + 1';
CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE CAST (pair AS text) WITH INOUT;
CREATE STATISTICS stat ON a, b FROM duplicates;
CREATE TEXT SEARCH CONFIGURATION simple2 (COPY = simple);
CREATE PUBLICATION pub FOR TABLE numbers;

-- Sequences.
CREATE SEQUENCE seq_fresh; CREATE SEQUENCE seq_used START 5 INCREMENT -3 MINVALUE -100 MAXVALUE 10 CYCLE CACHE 4; SELECT nextval('seq_used'), nextval('seq_used');
CREATE SEQUENCE seq_set AS smallint; SELECT setval('seq_set', 32767, true); CREATE SEQUENCE seq_uncalled; SELECT setval('seq_uncalled', 42, false); CREATE SEQUENCE "select"."Seq ""q";
CREATE TABLE serials (id bigserial PRIMARY KEY, n smallserial); INSERT INTO serials DEFAULT VALUES; INSERT INTO serials DEFAULT VALUES; DELETE FROM serials WHERE id = 2;

-- Views.
CREATE VIEW view_1 AS SELECT id, v FROM parent; CREATE VIEW view_b WITH (security_barrier) AS SELECT 1 AS x;
CREATE MATERIALIZED VIEW mat_b AS SELECT id, f8 FROM numbers; CREATE UNIQUE INDEX ON mat_b (id);
CREATE VIEW over_mat AS SELECT * FROM mat_b; CREATE MATERIALIZED VIEW mat_a AS SELECT count(*) AS n FROM over_mat;
CREATE MATERIALIZED VIEW mat_empty AS SELECT 1 AS x WITH NO DATA;

-- Rights.
DO $$ BEGIN CREATE ROLE rv_owner; CREATE ROLE rv_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
CREATE TABLE secured (id int PRIMARY KEY, who name); INSERT INTO secured VALUES (1, 'a'), (2, 'rv_reader');
ALTER TABLE secured ENABLE ROW LEVEL SECURITY; ALTER TABLE secured FORCE ROW LEVEL SECURITY; ALTER TABLE secured OWNER TO rv_owner;
CREATE POLICY p ON secured FOR SELECT TO rv_reader USING (who = current_user); CREATE POLICY p2 ON secured AS RESTRICTIVE USING (true);
GRANT SELECT, UPDATE (who) ON secured TO rv_reader; GRANT SELECT ON numbers TO PUBLIC; GRANT USAGE ON SCHEMA "select" TO rv_reader WITH GRANT OPTION;
GRANT CREATE ON SCHEMA public TO rv_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE rv_owner IN SCHEMA public GRANT SELECT ON TABLES TO rv_reader; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
REVOKE ALL ON FUNCTION fire() FROM PUBLIC; ALTER FUNCTION fire() OWNER TO rv_owner; GRANT EXECUTE ON FUNCTION fire() TO rv_reader;
COMMENT ON TABLE numbers IS 'it''s a comment \ with "quotes"'; COMMENT ON COLUMN numbers.f4 IS 'col'; COMMENT ON SCHEMA public IS 'changed'; COMMENT ON POLICY p ON secured IS 'pol'; COMMENT ON EXTENSION citext IS 'mine';

-- Foreign tables.
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid'); CREATE USER MAPPING FOR rv_owner SERVER far OPTIONS (user 'x'); CREATE FOREIGN TABLE foreign_table (a int, b text) SERVER far;

-- Large objects.
SELECT lo_from_bytea(1000, convert_to(repeat('large object ', 1000), 'UTF8')); SELECT lo_from_bytea(1001, ''); SELECT lo_from_bytea(4000000000, '\x00ff0a5c'); SELECT lo_put(4000000000, 10000, '\xabcd');
ALTER LARGE OBJECT 1000 OWNER TO rv_owner; GRANT SELECT ON LARGE OBJECT 1000 TO rv_reader WITH GRANT OPTION; GRANT SELECT ON LARGE OBJECT 1001 TO PUBLIC; COMMENT ON LARGE OBJECT 1000 IS 'lo'; REVOKE ALL ON LARGE OBJECT 4000000000 FROM postgres;
GRANT UPDATE ON LARGE OBJECT 4000000000 TO rv_owner;

-- Large cells around the limit of 1 MiB, in several columns and types.
CREATE TABLE large (id int PRIMARY KEY, t text, b bytea, j jsonb, a text[], small text);
INSERT INTO large VALUES (1, repeat('x', 1048575), NULL, NULL, NULL, 'a'), (2, repeat('x', 1048576), NULL, NULL, NULL, ''), (3, repeat('x', 1048577), NULL, NULL, NULL, NULL),
 (4, repeat(E'é\n\\\t', 300000), decode(repeat('00ff5c0a', 300000), 'hex'), NULL, NULL, 'both'), (5, NULL, decode(repeat('ab', 524287), 'hex'), NULL, NULL, 'b'), (6, NULL, decode(repeat('ab', 524288), 'hex'), NULL, NULL, NULL),
 (7, '', '', jsonb_build_object('k', repeat('"q"', 500000)), ARRAY[repeat(E'"\\', 300000), NULL], 'j'), (8, 't', '\x01', '1', '{}', 's');
INSERT INTO large SELECT 9, string_agg(md5(i::text), ''), NULL, NULL, NULL, 'random' FROM generate_series(1, 100000) i;
CREATE TABLE large_nokey (t text, u text); INSERT INTO large_nokey SELECT repeat(i::text, 2000000), NULL FROM generate_series(1, 3) i; INSERT INTO large_nokey VALUES ('short', repeat('z', 3000000));
CREATE TABLE expanded (id int PRIMARY KEY, a bool[]); INSERT INTO expanded SELECT 1, array_agg(true) FROM generate_series(1, 800000) i;

-- The database itself, last: its event trigger sees what follows.
DO $$ BEGIN EXECUTE format('COMMENT ON DATABASE %I IS %L', current_database(), 'the ''database'''); EXECUTE format('ALTER DATABASE %I SET work_mem = ''8MB''', current_database());
 EXECUTE format('ALTER DATABASE %I SET search_path = public, "select", "$user"', current_database()); EXECUTE format('ALTER ROLE rv_reader IN DATABASE %I SET statement_timeout = ''5s''', current_database());
 EXECUTE format('GRANT CREATE ON DATABASE %I TO rv_owner', current_database()); EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 55', current_database()); END $$;
DELETE FROM fired;
CREATE EVENT TRIGGER ddl ON ddl_command_end EXECUTE FUNCTION on_ddl();
