"""The fingerprint names every seeded change of the catalogue, and is silent about what is no change."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest

from comporta.proof.fingerprint import SEQUENCE_PROGRESS, Fingerprint, diff, second_opinion, take

if TYPE_CHECKING:
    from tests.postgres.conftest import Servers


class Mutant(NamedTuple):
    """A statement that changes one thing, and the words by which the difference must name it."""

    id: str
    sql: str
    said: str


G = "catalogue.geometrias"
LABEL = "function catalogue.label(catalogue.geometrias)"
SEARCH = "catalogue.rpc_search(text,public.geometry,date,date,integer)"

MUTANTS = [
    # Grants
    Mutant(
        "lost grant on a table",
        f"revoke select on {G} from gis_reader",
        f"grant SELECT on table {G} to gis_reader: expected present, found absent",
    ),
    Mutant(
        "added grant on a table",
        f"grant truncate on {G} to gis_editor",
        f"grant TRUNCATE on table {G} to gis_editor: expected absent, found present",
    ),
    Mutant(
        "grant option",
        f"grant select on {G} to gis_reader with grant option",
        f"grant SELECT on table {G} to gis_reader: expected present, found with grant option",
    ),
    Mutant(
        "lost grant on a column",
        f"revoke update (name) on {G} from gis_editor",
        f"grant UPDATE on column {G}.name to gis_editor: expected present, found absent",
    ),
    Mutant(
        "lost grant on a function",
        f"revoke execute on {LABEL} from gis_reader",
        f"grant EXECUTE on {LABEL} to gis_reader: expected present, found absent",
    ),
    Mutant(
        "function open to the public",
        f"grant execute on {LABEL} to public",
        f"grant EXECUTE on {LABEL} to public: expected absent, found present",
    ),
    Mutant(
        "lost grant on a schema",
        "revoke usage on schema catalogue from gis_editor",
        "grant USAGE on schema catalogue to gis_editor: expected present, found absent",
    ),
    Mutant(
        "grant on a sequence",
        "grant usage on sequence catalogue.geometrias_id_seq to gis_editor",
        "grant USAGE on sequence catalogue.geometrias_id_seq to gis_editor: expected absent, found present",
    ),
    Mutant(
        "lost grant on a view",
        "revoke select on catalogue.geometrias_publicas from gis_editor",
        "grant SELECT on view catalogue.geometrias_publicas to gis_editor: expected present, found absent",
    ),
    Mutant(
        "default privilege lost",
        "alter default privileges for role gis_owner in schema catalogue revoke select on tables from gis_reader",
        "grant SELECT on default privileges of gis_owner in schema catalogue on tables to gis_reader: "
        "expected present, found absent",
    ),
    Mutant(
        "default privilege for the whole database",
        "alter default privileges for role gis_owner revoke execute on functions from public",
        "default privileges of gis_owner on functions: expected absent, found present",
    ),
    Mutant(
        "grant on a function of an extension",
        "revoke execute on function public.unaccent(text) from public",
        "grant EXECUTE on function public.unaccent(text) to public: expected absent, found revoked",
    ),
    Mutant(
        "grant on a function of the server",
        "grant execute on function pg_ls_waldir() to gis_reader",
        "grant EXECUTE on function pg_ls_waldir() to gis_reader: expected absent, found present",
    ),
    # Owners
    Mutant("owner of a table", f"alter table {G} owner to postgres", f"owner of table {G}: expected gis_owner"),
    Mutant("owner of a function", f"alter {LABEL} owner to postgres", f"owner of {LABEL}: expected gis_owner"),
    Mutant("owner of a schema", "alter schema catalogue owner to postgres", "owner of schema catalogue"),
    Mutant("owner of a view", "alter view catalogue.geometrias_publicas owner to postgres", "owner of view catalogue."),
    Mutant("owner of a publication", "alter publication catalogue_feed owner to gis_owner", "owner of publication"),
    # Row level security
    Mutant("row level security off", f"alter table {G} disable row level security", f"row level security of table {G}"),
    Mutant(
        "row level security forced",
        f"alter table {G} force row level security",
        f"row level security for the owner of table {G}: expected absent, found forced",
    ),
    Mutant(
        "policy lost",
        f"drop policy geometrias_public on {G}",
        f"policy geometrias_public on {G}: expected present, found absent",
    ),
    Mutant(
        "policy lets more through",
        f"alter policy geometrias_public on {G} using (true)",
        f"using of policy geometrias_public on {G}",
    ),
    Mutant(
        "policy checks less",
        f"alter policy geometrias_editors on {G} with check (true)",
        f"with check of policy geometrias_editors on {G}",
    ),
    Mutant(
        "policy for other roles",
        f"alter policy geometrias_public on {G} to gis_reader, gis_editor",
        f"roles of policy geometrias_public on {G}: expected gis_reader, found gis_editor, gis_reader",
    ),
    Mutant(
        "policy restrictive and for all commands",
        f"drop policy geometrias_public on {G};"
        f"create policy geometrias_public on {G} as restrictive to gis_reader using (not restricted)",
        f"permissive of policy geometrias_public on {G}: expected yes, found no",
    ),
    # Triggers and rules
    Mutant(
        "trigger lost", f"drop trigger geometrias_touch on {G}", f"trigger geometrias_touch on {G}: expected present"
    ),
    Mutant(
        "trigger disabled",
        f"alter table {G} disable trigger geometrias_touch",
        f"fires of trigger geometrias_touch on {G}: expected yes, found disabled",
    ),
    Mutant(
        "trigger always fires",
        f"alter table {G} enable always trigger geometrias_touch",
        f"fires of trigger geometrias_touch on {G}: expected yes, found always",
    ),
    Mutant(
        "trigger for fewer events",
        f"create or replace trigger geometrias_record_edit after insert or update on {G}"
        " for each row execute function catalogue.geometrias_record_edit()",
        f"definition of trigger geometrias_record_edit on {G}",
    ),
    Mutant(
        "foreign key no longer enforced",
        "alter table catalogue.annotations disable trigger all",
        'enforced by "RI_FKey_check_ins" on catalogue.annotations of constraint annotations_geometria_fkey',
    ),
    Mutant(
        "rule added",
        "create rule quiet as on delete to catalogue.layers do instead nothing",
        "rule quiet on catalogue.layers: expected absent",
    ),
    Mutant(
        "event trigger added",
        "create function public.nothing() returns event_trigger language plpgsql as 'begin end';"
        "create event trigger watch on ddl_command_end execute function public.nothing()",
        "event trigger watch: expected absent, found present",
    ),
    # Constraints
    Mutant(
        "foreign key lost",
        "alter table catalogue.inspections drop constraint inspections_geometria_fkey",
        "constraint inspections_geometria_fkey on catalogue.inspections: expected present, found absent",
    ),
    Mutant(
        "inbound foreign key seen from the table",
        "alter table catalogue.inspections drop constraint inspections_geometria_fkey",
        f"referenced by inspections_geometria_fkey on catalogue.inspections of table {G}: expected present, found absent",
    ),
    Mutant(
        "foreign key not validated",
        "alter table catalogue.inspections drop constraint inspections_geometria_fkey,"
        f" add constraint inspections_geometria_fkey foreign key (geometria_id) references {G} (id) not valid",
        "validated of constraint inspections_geometria_fkey on catalogue.inspections: expected yes, found no",
    ),
    Mutant(
        "foreign key with another action",
        "alter table catalogue.annotations drop constraint annotations_geometria_fkey,"
        f" add constraint annotations_geometria_fkey foreign key (geometria_id) references {G} (id)",
        "definition of constraint annotations_geometria_fkey on catalogue.annotations",
    ),
    Mutant(
        "foreign key deferrable",
        "alter table catalogue.annotations alter constraint annotations_geometria_fkey deferrable initially deferred",
        "deferrable of constraint annotations_geometria_fkey on catalogue.annotations: expected absent",
    ),
    Mutant(
        "check lost",
        f"alter table {G} drop constraint geometrias_valid_time",
        f"constraint geometrias_valid_time on {G}: expected present, found absent",
    ),
    Mutant(
        "check not validated",
        f"alter table {G} drop constraint geometrias_valid_time,"
        f" add constraint geometrias_valid_time check (data_referencia >= date '2015-01-01') not valid",
        f"validated of constraint geometrias_valid_time on {G}: expected yes, found no",
    ),
    Mutant(
        "constraint renamed",
        f"alter table {G} rename constraint geometrias_valid_time to valid_time",
        f"constraint geometrias_valid_time on {G}: expected present, found absent",
    ),
    # Indexes
    Mutant(
        "index missing",
        "drop index catalogue.geometrias_geom_idx",
        "index catalogue.geometrias_geom_idx: expected present",
    ),
    Mutant(
        "index renamed",
        "alter index catalogue.geometrias_geom_idx rename to geom_idx",
        "index catalogue.geom_idx: expected absent, found present",
    ),
    Mutant(
        "index invalid",
        "update pg_index set indisvalid = false where indexrelid = 'catalogue.geometrias_geom_idx'::regclass",
        "valid of index catalogue.geometrias_geom_idx: expected yes, found no",
    ),
    Mutant(
        "index on other columns",
        f"drop index catalogue.geometrias_data_idx;create index geometrias_data_idx on {G} (layer, data_referencia)",
        "definition of index catalogue.geometrias_data_idx",
    ),
    Mutant(
        "option of an index",
        "alter index catalogue.geometrias_data_idx set (fillfactor = 70)",
        "definition of index catalogue.geometrias_data_idx",
    ),
    Mutant(
        "clustered flag",
        f"alter table {G} cluster on geometrias_data_idx",
        "clustered on of index catalogue.geometrias_data_idx: expected absent, found yes",
    ),
    Mutant(
        "statistics target of an expression index",
        f"create index lower_idx on {G} (lower(name)); alter index catalogue.lower_idx alter column 1 set statistics 300",
        "index catalogue.lower_idx: expected absent",
    ),
    # Comments
    Mutant("comment on a table", f"comment on table {G} is null", f"comment of table {G}: expected The geometries"),
    Mutant(
        "comment on a column", f"comment on column {G}.geom is null", f"comment of column {G}.geom: expected Outline"
    ),
    Mutant(
        "comment on an index",
        "comment on index catalogue.geometrias_geom_idx is null",
        "comment of index catalogue.geometrias_geom_idx: expected Serves",
    ),
    Mutant(
        "comment on a trigger",
        f"comment on trigger geometrias_touch on {G} is 'x'",
        f"comment of trigger geometrias_touch on {G}: expected Stamps updated_at., found x",
    ),
    Mutant(
        "comment on a policy",
        f"comment on policy geometrias_public on {G} is null",
        f"comment of policy geometrias_public on {G}",
    ),
    Mutant(
        "comment on a constraint",
        f"comment on constraint geometrias_valid_time on {G} is 'x'",
        f"comment of constraint geometrias_valid_time on {G}: expected absent, found x",
    ),
    Mutant("comment on a function", f"comment on {LABEL} is null", f"comment of {LABEL}: expected Name, layer"),
    Mutant("comment on a schema", "comment on schema catalogue is null", "comment of schema catalogue"),
    Mutant(
        "comment on a publication",
        "comment on publication catalogue_feed is null",
        "comment of publication catalogue_feed",
    ),
    Mutant("comment on the database", "comment on database gis is 'x'", "comment of database this database"),
    # Columns
    Mutant(
        "statistics target",
        f"alter table {G} alter column name set statistics -1",
        f"statistics target of column {G}.name: expected 500, found absent",
    ),
    Mutant(
        "storage",
        f"alter table {G} alter column properties set storage external",
        f"storage of column {G}.properties: expected extended, found external",
    ),
    Mutant(
        "compression",
        f"alter table {G} alter column properties set compression lz4",
        f"compression of column {G}.properties: expected absent, found lz4",
    ),
    Mutant(
        "default",
        f"alter table {G} alter column restricted drop default",
        f"default of column {G}.restricted: expected false",
    ),
    Mutant(
        "not null",
        f"alter table {G} alter column restricted drop not null",
        f"not null of column {G}.restricted: expected yes, found absent",
    ),
    Mutant(
        "identity",
        f"alter table {G} alter column id set generated always",
        f"identity of column {G}.id: expected by default, found always",
    ),
    Mutant(
        "spatial reference",
        "drop view catalogue.geometrias_publicas;"
        f"alter table {G} alter column geom type geometry using st_setsrid(geom, 4674)",
        f"type of column {G}.geom: expected public.geometry(MultiPolygon,4326), found public.geometry",
    ),
    Mutant(
        "column added", f"alter table {G} add column extra text", f"column {G}.extra: expected absent, found present"
    ),
    Mutant(
        "option of a column",
        f"alter table {G} alter column layer set (n_distinct = 10)",
        f"options of column {G}.layer: expected absent, found n_distinct=10",
    ),
    # Tables
    Mutant(
        "storage parameter lost",
        f"alter table {G} reset (fillfactor)",
        f"option fillfactor of table {G}: expected 90, found absent",
    ),
    Mutant(
        "storage parameter of the toast table",
        f"alter table {G} set (toast.autovacuum_enabled = off)",
        f"toast option autovacuum_enabled of table {G}: expected absent, found off",
    ),
    Mutant(
        "replica identity",
        f"alter table {G} replica identity full",
        f"replica identity of table {G}: expected default, found full",
    ),
    Mutant(
        "replica identity by index",
        f"alter table {G} replica identity using index geometrias_pkey",
        "replica identity of index catalogue.geometrias_pkey: expected absent, found yes",
    ),
    Mutant(
        "unlogged", "alter table catalogue.edits set unlogged", "persistence of table catalogue.edits: expected logged"
    ),
    Mutant(
        "inheritance",
        f"create table catalogue.old () inherits ({G})",
        "table catalogue.old: expected absent, found present",
    ),
    Mutant("schema left behind", "create schema comporta_opt1_before", "schema comporta_opt1_before: expected absent"),
    # Statistics objects
    Mutant(
        "extended statistics lost",
        "drop statistics catalogue.geometrias_layer_year",
        "statistics object catalogue.geometrias_layer_year: expected present, found absent",
    ),
    Mutant(
        "target of extended statistics",
        "alter statistics catalogue.geometrias_layer_year set statistics 50",
        "statistics target of statistics object catalogue.geometrias_layer_year: expected absent, found 50",
    ),
    # Sequences
    Mutant(
        "sequence position",
        "select setval('catalogue.geometrias_id_seq', 7)",
        "next value of sequence catalogue.geometrias_id_seq",
    ),
    Mutant(
        "sequence step",
        "alter sequence catalogue.geometrias_id_seq increment 2",
        "increment of sequence catalogue.geometrias_id_seq: expected 1, found 2",
    ),
    # Views
    Mutant(
        "view reads the table that was moved away",
        f"create schema away; create table catalogue.other (like {G} including all); alter table {G} set schema away;"
        " alter table catalogue.other rename to geometrias",
        "reads away.geometrias of view catalogue.geometrias_publicas: expected absent, found present",
    ),
    Mutant(
        "view option",
        "alter view catalogue.geometrias_publicas reset (security_invoker)",
        "option security_invoker of view catalogue.geometrias_publicas: expected true, found absent",
    ),
    Mutant(
        "view definition",
        "create or replace view catalogue.geometrias_publicas with (security_invoker = true) as"
        " select g.id, g.layer, l.title as layer_title, g.name, g.geom, g.properties, g.data_referencia"
        f" from {G} g join catalogue.layers l on l.code = g.layer",
        "definition of view catalogue.geometrias_publicas",
    ),
    Mutant(
        "materialized view left behind",
        f"create materialized view catalogue.search as select id, name from {G}",
        "materialized view catalogue.search: expected absent, found present",
    ),
    # Functions
    Mutant("volatility", f"alter {LABEL} volatile", f"volatility of {LABEL}: expected stable, found volatile"),
    Mutant(
        "security definer", f"alter {LABEL} security definer", f"security of {LABEL}: expected invoker, found definer"
    ),
    Mutant(
        "search path of a function",
        "alter function catalogue.geometrias_record_edit() reset search_path",
        "setting search_path of function catalogue.geometrias_record_edit(): expected pg_catalog, found absent",
    ),
    Mutant(
        "setting of a function",
        f"alter function {SEARCH} set pg_trgm.similarity_threshold = 0.5",
        f"setting pg_trgm.similarity_threshold of function {SEARCH}: expected 0.3, found 0.5",
    ),
    Mutant("parallel", f"alter function {SEARCH} parallel unsafe", f"parallel of function {SEARCH}: expected safe"),
    Mutant("cost", f"alter {LABEL} cost 7", f"cost of {LABEL}: expected 100, found 7"),
    Mutant("rows", f"alter function {SEARCH} rows 7", f"rows of function {SEARCH}: expected 1000, found 7"),
    Mutant("leakproof", f"alter {LABEL} leakproof", f"leakproof of {LABEL}: expected absent, found yes"),
    Mutant("strict", f"alter {LABEL} strict", f"strict of {LABEL}: expected absent, found yes"),
    Mutant(
        "body of a function",
        "create or replace function catalogue.label(catalogue.geometrias) returns text language sql stable as"
        " $$ select $1.name $$",
        f"source of {LABEL}",
    ),
    Mutant(
        "function left behind",
        "create function catalogue.f() returns int language sql as 'select 1'",
        "function catalogue.f()",
    ),
    # Types
    Mutant("enum left behind", "create type catalogue.mood as enum ('a')", "type catalogue.mood: expected absent"),
    Mutant("domain left behind", "create domain catalogue.code as text check (value <> '')", "domain catalogue.code"),
    Mutant(
        "aggregate left behind",
        "create aggregate catalogue.total(int) (sfunc = int4pl, stype = int)",
        "aggregate catalogue.total(integer): expected absent",
    ),
    Mutant(
        "cast left behind",
        "create type catalogue.mood as enum ('a'); create cast (catalogue.mood as jsonb) with inout",
        "cast (catalogue.mood as jsonb): expected absent",
    ),
    # Publications
    Mutant(
        "publication membership",
        f"alter publication catalogue_feed drop table {G}",
        f"table {G} of publication catalogue_feed: expected present, found absent",
    ),
    Mutant(
        "row filter of a publication",
        f"alter publication catalogue_feed set table {G} where (not restricted), catalogue.layers",
        f"table {G} of publication catalogue_feed: expected present, found where (NOT restricted)",
    ),
    Mutant(
        "column list of a publication",
        f"alter publication catalogue_feed set table {G} (id, name), catalogue.layers",
        f"table {G} of publication catalogue_feed: expected present, found columns (id, name)",
    ),
    Mutant(
        "publication through the root",
        "alter publication catalogue_feed set (publish_via_partition_root = true)",
        "via partition root of publication catalogue_feed: expected no, found yes",
    ),
    Mutant(
        "publication of fewer operations",
        "alter publication catalogue_feed set (publish = 'insert')",
        "publishes of publication catalogue_feed",
    ),
    # Extensions, settings, roles, jobs
    Mutant(
        "extension member removed",
        "alter extension unaccent drop function public.unaccent(text)",
        "member function public.unaccent(text) of extension unaccent: expected digest",
    ),
    Mutant(
        "extension function altered",
        "alter function public.unaccent(text) immutable",
        "member function public.unaccent(text) of extension unaccent: expected digest",
    ),
    Mutant(
        "extension member added",
        f"alter extension unaccent add function {SEARCH}",
        f"member function {SEARCH} of extension unaccent: expected absent, found digest",
    ),
    Mutant(
        "extension left behind", "create extension tablefunc", "extension tablefunc: expected absent, found present"
    ),
    Mutant(
        "setting of the database",
        "alter database gis set work_mem = '7MB'",
        "setting work_mem of database this database: expected absent, found 7MB",
    ),
    Mutant(
        "setting of a role",
        "alter role gis_reader in database gis set statement_timeout = '7s'",
        "setting statement_timeout in this database of role gis_reader: expected absent, found 7s",
    ),
    Mutant(
        "membership",
        "revoke gis_reader from app_reader",
        "member app_reader of role gis_reader: expected present, found absent",
    ),
    Mutant("role attribute", "alter role gis_editor bypassrls", "attributes of role gis_editor"),
    Mutant(
        "cron job left behind",
        "select cron.schedule('refresh', '* * * * *', 'select 1')",
        "cron job refresh of postgres: expected absent, found present",
    ),
    # Partitions
    Mutant(
        "partition left behind",
        "create table catalogue.p (d date) partition by range (d);"
        "create table catalogue.p1 partition of catalogue.p for values from ('2029-01-01') to ('2030-01-01')",
        "table catalogue.p1: expected absent",
    ),
]

# Each of these runs outside a transaction; none changes what the catalogue says.
NEUTRAL = [
    f"vacuum {G}",
    f"vacuum full {G}",
    "analyze",
    f"reindex table {G}",
    f"reindex table concurrently {G}",
    "reindex index concurrently catalogue.geometrias_geom_idx",
    "alter table catalogue.annotations cluster on annotations_pkey;cluster catalogue.annotations;"
    "alter table catalogue.annotations set without cluster",
    "refresh materialized view catalogue.named",
    f"revoke select on {G} from gis_reader;grant select on {G} to gis_reader",
    f"grant truncate on {G} to gis_reader;revoke truncate on {G} from gis_reader",
    f"alter table {G} add column extra text;alter table {G} drop column extra",
    f"alter table {G} disable trigger all;alter table {G} enable trigger all",
    "alter index catalogue.geometrias_geom_idx rename to x;alter index catalogue.x rename to geometrias_geom_idx",
    f"create schema away;alter table {G} set schema away;alter table away.geometrias set schema catalogue;drop schema away",
    "drop index catalogue.geometrias_properties_idx;"
    f"create index geometrias_properties_idx on {G} using gin (properties jsonb_path_ops)",
    "create or replace function catalogue.label(catalogue.geometrias) returns text language sql stable as"
    " $$ select $1.name || ' (' || $1.layer || ', ' || to_char($1.data_referencia, 'YYYY') || ')' $$",
    "select pg_stat_reset()",
    "checkpoint",
    f"update {G} set name = name || '!' where id < 100",
    "create temp table geometrias (id int)",
    "create table comporta.scratch (id int)",
    "create function comporta.scratch() returns int language sql as 'select 1'",
    "comment on table comporta.step is 'something else'",
]


@pytest.fixture(scope="module")
def undisturbed(servers: Servers) -> Iterator[tuple[psycopg.Connection[Any], Fingerprint]]:
    """A connection to a catalogue that every test of this module leaves as it was, and its fingerprint."""
    with psycopg.connect(servers.target.fresh_catalogue(), autocommit=True) as conn:
        yield conn, take(conn)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_each_seeded_change_is_named_by_object_and_property(
    undisturbed: tuple[psycopg.Connection[Any], Fingerprint], mutant: Mutant
) -> None:
    """A change made in the caller's own open transaction is seen there and named."""
    conn, before = undisturbed
    with conn.transaction(force_rollback=True):
        conn.execute(mutant.sql.encode())
        after = take(conn)
    sentences = [str(each) for each in diff(before, after)]
    assert before.digest != after.digest
    assert any(mutant.said in sentence for sentence in sentences), sentences
    # setval is not undone by the rollback; everything else is.
    conn.execute("select setval('catalogue.geometrias_id_seq', max(id)) from catalogue.geometrias")
    assert diff(before, take(conn)) == []


def test_what_is_no_change_gives_no_difference(catalogue: str) -> None:
    """Maintenance, new OIDs and files, gaps from dropped columns, rows and temporary objects are no difference."""
    with psycopg.connect(catalogue, autocommit=True) as conn:
        conn.execute(f"create materialized view catalogue.named as select id, name from {G}")
        before = take(conn)
        for statements in NEUTRAL:
            for statement in statements.split(";"):
                conn.execute(statement.encode())
            found = diff(before, take(conn), ignore=[SEQUENCE_PROGRESS])
            assert [str(each) for each in found] == [], statements


def test_a_table_made_again_by_hand_is_told_from_the_original_only_where_it_differs(catalogue: str) -> None:
    """LIKE INCLUDING ALL loses owner, grants, policies, triggers, foreign keys both ways, and the fingerprint says so."""
    with psycopg.connect(catalogue, autocommit=True) as conn:
        before = take(conn)
        conn.execute(
            f"create table catalogue.fresh (like {G} including all); insert into catalogue.fresh select * from {G};"
            f"alter table {G} rename to geometrias_old; alter table catalogue.fresh rename to geometrias"
        )
        sentences = "\n".join(str(each) for each in diff(before, take(conn)))
    for said in (
        f"owner of table {G}: expected gis_owner, found postgres",
        f"row level security of table {G}: expected enabled, found disabled",
        f"policy geometrias_public on {G}: expected present, found absent",
        f"trigger geometrias_touch on {G}: expected present, found absent",
        f"constraint geometrias_layer_fkey on {G}: expected present, found absent",
        f"referenced by annotations_geometria_fkey on catalogue.annotations of table {G}: expected present, found absent",
        "definition of constraint annotations_geometria_fkey on catalogue.annotations",
        f"option fillfactor of table {G}: expected 90, found absent",
        f"statistics target of column {G}.name: expected 500, found absent",
        "reads catalogue.geometrias_old of view catalogue.geometrias_publicas: expected absent, found present",
        f"table {G} of publication catalogue_feed: expected present, found absent",
    ):
        assert said in sentences


def test_properties_that_the_demo_catalogue_does_not_have_are_seen_too(catalogue: str) -> None:
    """Sequence ownership, expression statistics, partition bounds, enum labels, domains, toast options, cron jobs."""
    with psycopg.connect(catalogue, autocommit=True) as conn:
        conn.execute(
            f"""
            create sequence catalogue.numbers owned by none;
            create table catalogue.numbered (n int default nextval('catalogue.numbers'), name text);
            alter sequence catalogue.numbers owned by catalogue.numbered.n;
            create index lower_idx on catalogue.numbered (lower(name));
            create type catalogue.mood as enum ('good', 'bad');
            create domain catalogue.code as text constraint filled check (value <> '');
            create table catalogue.years (d date) partition by range (d);
            create table catalogue.year_2029 partition of catalogue.years for values from ('2029-01-01') to ('2030-01-01');
            create materialized view catalogue.named as select id, name from {G};
            select cron.schedule('refresh', '* * * * *', 'select 1')
            """.encode()
        )
        before = take(conn)
        conn.execute("""
            alter sequence catalogue.numbers owned by none;
            alter index catalogue.lower_idx alter column 1 set statistics 300;
            alter type catalogue.mood add value 'worse' before 'bad';
            alter domain catalogue.code drop constraint filled;
            alter table catalogue.years detach partition catalogue.year_2029;
            alter table catalogue.years attach partition catalogue.year_2029 default;
            refresh materialized view catalogue.named with no data;
            select cron.schedule('refresh', '*/5 * * * *', 'select 1')""")
        sentences = "\n".join(str(each) for each in diff(before, take(conn)))
    assert sentences.splitlines() == [
        "constraint filled on domain catalogue.code: expected present, found absent",
        "schedule of cron job refresh of postgres: expected * * * * *, found */5 * * * *",
        "statistics target of column 1 of index catalogue.lower_idx: expected absent, found 300",
        "populated of materialized view catalogue.named: expected yes, found no",
        "owned by of sequence catalogue.numbers: expected catalogue.numbered.n, found absent",
        "partition bound of table catalogue.year_2029: expected FOR VALUES FROM ('2029-01-01') TO ('2030-01-01'),"
        " found DEFAULT",
        "labels of type catalogue.mood: expected 'good', 'bad', found 'good', 'worse', 'bad'",
    ]


def test_rare_kinds_of_objects_are_held_too(catalogue: str) -> None:
    """Whatever PostgreSQL lets one create without C code appears under its own kind and name, and goes again."""
    with psycopg.connect(catalogue, autocommit=True) as conn:
        before = take(conn)
        with conn.transaction(force_rollback=True):
            conn.execute("""
                create schema odd;
                create type odd.pair as (a int, b text);
                comment on column odd.pair.a is 'first';
                create type odd.span as range (subtype = int);
                create function odd.same(odd.pair, odd.pair) returns boolean language sql immutable as 'select $1.a = $2.a';
                create operator odd.=== (leftarg = odd.pair, rightarg = odd.pair, function = odd.same,
                    commutator = operator(odd.===));
                create operator family odd.family using btree;
                create operator class odd.class for type int4 using hash as operator 1 =, function 1 hashint4(int4);
                create collation odd.plain (provider = libc, locale = 'C');
                create conversion odd.conv for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;
                create text search dictionary odd.dict (template = simple);
                create text search configuration odd.config (copy = english);
                create text search parser odd.parser (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end,
                    lextypes = prsd_lextype);
                create procedure odd.act() language sql as 'select 1';
                create function odd.atomic() returns bigint language sql begin atomic select count(*) from catalogue.layers; end;
                create function odd.win() returns trigger language plpgsql as 'begin return null; end';
                create foreign data wrapper nothing;
                create server afar foreign data wrapper nothing options (host 'x');
                create user mapping for public server afar options (password 'secret');
                create foreign table odd.remote (a int options (n 'x')) server afar options (t 'y');
                create table odd.typed of odd.pair;
                create view odd.seen as select 1 as one;
                create trigger watch instead of insert on odd.seen for each row execute function odd.win();
                create constraint trigger late after insert on odd.typed deferrable initially deferred
                    for each row execute function odd.win();
                create table odd.spans (s odd.span, n int unique deferrable, exclude using gist (s with &&));
                create publication everything for tables in schema odd;
                create access method heap2 type table handler heap_tableam_handler""")
            after = take(conn)
            present = {(each.object_kind, each.object_name) for each in diff(before, after) if each.expected is None}
        assert diff(before, take(conn)) == []
    assert "secret" not in str(after.as_json())
    assert {
        ("access method", "heap2"),
        ("collation", "odd.plain"),
        ("column", "odd.pair.a"),
        ("column", "odd.remote.a"),
        ("constraint", "spans_n_key on odd.spans"),
        ("constraint", "spans_s_excl on odd.spans"),
        ("conversion", "odd.conv"),
        ("foreign table", "odd.remote"),
        ("foreign-data wrapper", "nothing"),
        ("function", "odd.atomic()"),
        ("operator class", "odd.class for hash"),
        ("operator family", "odd.family for btree"),
        ("operator", "odd.===(odd.pair,odd.pair)"),
        ("procedure", "odd.act()"),
        ("publication", "everything"),
        ("schema", "odd"),
        ("server", "afar"),
        ("table", "odd.typed"),
        ("text search configuration", "odd.config"),
        ("text search dictionary", "odd.dict"),
        ("trigger", "late on odd.typed"),
        ("trigger", "watch on odd.seen"),
        ("type", "odd.pair"),
        ("type", "odd.span"),
        ("user mapping", "public on server afar"),
        ("view", "odd.seen"),
    } <= present
    assert after.facts["function", "odd.atomic()"]["reads catalogue.layers"] == "present"


def test_two_clones_of_one_catalogue_have_one_digest(
    undisturbed: tuple[psycopg.Connection[Any], Fingerprint], catalogue: str
) -> None:
    """The digest depends on neither server, nor OIDs, nor the moment; roles of the cluster may be left out."""
    _, on_target = undisturbed
    with psycopg.connect(catalogue, autocommit=True) as conn:
        on_shadow = take(conn)
    assert [str(each) for each in diff(on_target, on_shadow)] == []
    assert on_shadow.digest_without("roles") == on_target.digest_without("roles")


def test_a_fingerprint_survives_json(undisturbed: tuple[psycopg.Connection[Any], Fingerprint]) -> None:
    """Written and read back, a real fingerprint is equal and has the same digest."""
    _, before = undisturbed
    again = Fingerprint.from_json(json.dumps(before.as_json()))
    assert again == before
    assert again.digest == before.digest


def test_no_oid_is_in_a_fingerprint(undisturbed: tuple[psycopg.Connection[Any], Fingerprint]) -> None:
    """No name or value contains the OID of the table, of a trigger, or of a constraint."""
    conn, before = undisturbed
    oids = [
        str(row[0])
        for row in conn.execute(
            "select oid from pg_class where relname = 'geometrias' union all select oid from pg_trigger"
            " union all select oid from pg_constraint where oid > 16384"
        )
    ]
    text = re.sub(r"\b[0-9a-f]{32}\b", "", json.dumps(before.as_json()["facts"]))  # digests hold any number
    assert len(oids) > 10
    assert [oid for oid in oids if oid in text] == []


def test_taking_it_leaves_the_session_as_it_was(undisturbed: tuple[psycopg.Connection[Any], Fingerprint]) -> None:
    """Settings made for reading end with it, also inside the caller's transaction, and no lock stays."""
    conn, _ = undisturbed
    with conn.transaction(force_rollback=True):
        conn.execute("set local search_path = catalogue, public")
        take(conn)
        path = conn.execute("show search_path").fetchone()
        held = conn.execute(
            "select count(*) from pg_locks where pid = pg_backend_pid() and relation = 'catalogue.geometrias'::regclass"
        ).fetchone()
    assert path == ("catalogue, public",)
    assert held == (0,)


def test_the_session_settings_of_the_caller_do_not_show(
    undisturbed: tuple[psycopg.Connection[Any], Fingerprint],
) -> None:
    """Dates, names and paths come out alike whatever the caller had set."""
    conn, before = undisturbed
    with conn.transaction(force_rollback=True):
        conn.execute(
            "set local datestyle = 'German'; set local timezone = 'Asia/Tokyo'; set local quote_all_identifiers = on;"
            " set local search_path = catalogue, public"
        )
        assert diff(before, take(conn)) == []


def test_a_role_without_rights_can_take_it(undisturbed: tuple[psycopg.Connection[Any], Fingerprint]) -> None:
    """Without SELECT on a sequence its position is said to be unreadable; the rest equals what a superuser reads."""
    conn, before = undisturbed
    with conn.transaction(force_rollback=True):
        conn.execute("set local role gis_reader")
        found = diff(before, take(conn), ignore=["cron jobs"])
    assert {each.property for each in found} == {"next value"}
    assert {each.found for each in found} == {"not readable"}


def test_the_second_opinion_agrees(catalogue: str) -> None:
    """pg_dump gives one digest for one schema, run after run, and another after a change."""
    first = second_opinion(catalogue)
    assert second_opinion(catalogue) == first
    with psycopg.connect(catalogue, autocommit=True) as conn:
        conn.execute(f"comment on table {G} is null")
    assert second_opinion(catalogue) != first
