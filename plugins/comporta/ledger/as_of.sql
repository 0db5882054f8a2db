select to_jsonb(line) from {as_of}({upto}) as line order by {key}
