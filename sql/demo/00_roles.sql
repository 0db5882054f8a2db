-- Purpose:     the roles of the demo catalogue; passwords are set by the loader, never here.
-- Requires:    CREATEROLE.
-- Locks:       none.
-- Transaction: yes.

do $$
declare
    wanted text;
begin
    foreach wanted in array array['gis_owner', 'gis_reader', 'gis_editor'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            execute format('create role %I nologin', wanted);
        end if;
    end loop;
    if not exists (select from pg_roles where rolname = 'app_reader') then
        create role app_reader login in role gis_reader;
    end if;
    if not exists (select from pg_roles where rolname = 'app_editor') then
        create role app_editor login in role gis_editor;
    end if;
end
$$;
