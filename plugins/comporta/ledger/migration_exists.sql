select to_regclass('comporta.migration') is not null
