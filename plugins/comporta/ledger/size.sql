select (select count(*) from comporta.event), (select count(*) from comporta.block)
