select name, sha256 from comporta.migration
