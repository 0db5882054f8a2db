insert into catalogue.annotations (geometria_id, author, body) values (%(id)s, 'traffic', %(body)s) returning id
