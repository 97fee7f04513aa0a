.open /data/shop.db
.mode json
SELECT country, count(*) n FROM customer GROUP BY 1 ORDER BY 2 DESC, 1;
.mode list
SELECT rowid, highlight(names,0,'[',']') FROM names WHERE names MATCH 'name AND q17*' ORDER BY rank LIMIT 5;
SELECT day, cents, sum(cents) OVER (PARTITION BY customer ORDER BY day, id ROWS 2 PRECEDING), lag(day) OVER w FROM purchase WHERE customer=77 WINDOW w AS (ORDER BY day, id) ORDER BY day, id;
EXPLAIN QUERY PLAN SELECT * FROM purchase WHERE customer=5 AND day>'2024-06-01';
SELECT json_extract('{"a":[1,{"b":2.50}]}', '$.a[1].b'), json_group_object(key, value) FROM json_each('{"x":1,"y":null}');
SELECT printf('%.3f %e %g %x %q', 1.0/3, 1e-10, 1e15, 255, 'it''s'), round(2.5), typeof(9223372036854775807+1), 7/2, -7%3, 1e308*10, sqrt(2), upper('ß'), unicode('€'), 'a' < 'B';
CREATE VIRTUAL TABLE temp.area USING rtree(id, x0, x1, y0, y1);
INSERT INTO area SELECT id, id%50, id%50+3, id%37, id%37+2 FROM customer WHERE id<=500;
SELECT count(*), sum(id) FROM area WHERE x1>10 AND x0<12 AND y1>5 AND y0<6;
.import --csv --skip 1 /data/report.csv imported
SELECT count(*), typeof(1) FROM imported;
.backup /data/copy.db
ATTACH '/data/copy.db' AS copy;
SELECT (SELECT sum(cents) FROM copy.purchase) = (SELECT sum(cents) FROM main.purchase);
PRAGMA copy.quick_check;
PRAGMA temp_store=MEMORY;
PRAGMA journal_mode=TRUNCATE;
INSERT INTO purchase VALUES(NULL, 1, 1, '2025-01-01');
PRAGMA journal_mode=PERSIST;
DELETE FROM purchase WHERE day='2025-01-01';
SELECT count(*) FROM purchase;
.schema purchase
.tables
