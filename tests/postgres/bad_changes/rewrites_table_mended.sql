-- Purpose:     the same column, added empty, with its default for new rows, and filled in batches that commit.
-- Requires:    the demo catalogue, sql/support.
-- Locks:       ACCESS EXCLUSIVE on catalogue.geometrias for two quick statements; row locks for one batch at a time.
-- Transaction: no.

call comporta.with_lock(array['catalogue.geometrias'], 'alter table catalogue.geometrias add column if not exists token uuid');
call comporta.with_lock(array['catalogue.geometrias'], 'alter table catalogue.geometrias alter column token set default gen_random_uuid()');
do $$
declare
    place bigint := 0;
    reached bigint;
begin
    loop
        select max(id) into reached from (select id from catalogue.geometrias where id > place order by id limit 1000) batch;
        exit when reached is null;
        update catalogue.geometrias set token = gen_random_uuid() where id > place and id <= reached and token is null;
        place := reached;
        commit;
    end loop;
end
$$;
