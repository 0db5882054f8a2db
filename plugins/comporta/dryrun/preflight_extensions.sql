-- Purpose:     version of the server and of each extension: installed here, offered here.
-- Requires:    search_path = pg_catalog.
-- Locks:       none.
-- Transaction: yes, read only.

select 'server' as kind, 'postgresql' as name, current_setting('server_version') as version
union all
select 'installed', e.extname::text, e.extversion from pg_extension e
union all
select 'offered', v.name::text, v.version from pg_available_extension_versions v;
