.bail on
.open /data/shop.db
PRAGMA journal_mode=DELETE;
PRAGMA page_size=1024;
PRAGMA temp_store=MEMORY;
CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT, CHECK(length(name) > 1));
CREATE TABLE purchase(id INTEGER PRIMARY KEY, customer REFERENCES customer, cents INT, day TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000)
INSERT INTO customer SELECT i, 'name '||char(64+i%26)||i, substr('DEFRITES', 1+(i%4)*2, 2) FROM n;
WITH RECURSIVE n(i,x) AS (SELECT 1,7 UNION ALL SELECT i+1,(x*69069+1)&4294967295 FROM n WHERE i<40000)
INSERT INTO purchase SELECT i, 1+x%2000, x%9973, date('2024-01-01', '+'||(x%366)||' days') FROM n;
CREATE INDEX purchase_customer ON purchase(customer, day);
CREATE VIRTUAL TABLE names USING fts5(name, content='customer', content_rowid='id');
INSERT INTO names(names) VALUES('rebuild');
BEGIN; DELETE FROM purchase; SELECT count(*) FROM purchase; ROLLBACK;
SELECT count(*), sum(cents), min(day), max(day) FROM purchase;
SAVEPOINT s; UPDATE customer SET country='XX' WHERE id<100; RELEASE s;
VACUUM;
PRAGMA integrity_check;
.output /data/report.csv
.mode csv
.headers on
SELECT country, count(*) AS customers, sum(cents) AS cents FROM customer JOIN purchase ON customer.id=purchase.customer GROUP BY country ORDER BY country;
.output stdout
.mode box
SELECT name, sum(cents) total FROM customer JOIN purchase ON customer.id=purchase.customer GROUP BY customer.id ORDER BY total DESC, name LIMIT 5;
.quit
