CREATE TABLE "odd name"(a, b BLOB, c REAL DEFAULT 1.5, "d e" TEXT COLLATE NOCASE);
INSERT INTO "odd name" VALUES(1, x'00ff10', 1e100, 'it''s'), (-9223372036854775808, NULL, -0.0, 'line
break'), (NULL, zeroblob(5), 9.007199254740993e15, 'émoji 😀');
CREATE VIEW v AS SELECT a, "d e" FROM "odd name" WHERE a IS NOT NULL;
CREATE TRIGGER trg AFTER INSERT ON "odd name" BEGIN UPDATE "odd name" SET c = new.rowid WHERE rowid = new.rowid; END;
INSERT INTO "odd name"(a) VALUES(3.0);
.dump
.mode insert
SELECT * FROM v;
.mode quote
SELECT * FROM "odd name";
.mode markdown
SELECT * FROM v ORDER BY 1;
WITH RECURSIVE q(r, c) AS (SELECT 1, ',1' UNION ALL SELECT r+1, c||','||(r+1) FROM q WHERE r<20) SELECT length(c), c FROM q WHERE r%7=0;
SELECT group_concat(x, '') FROM (WITH RECURSIVE xaxis(x) AS (VALUES(-2.0) UNION ALL SELECT x+0.1 FROM xaxis WHERE x<1.0), m(iter,cx,x,y) AS (SELECT 0,x,0.0,0.0 FROM xaxis UNION ALL SELECT iter+1,cx,x*x-y*y+cx,2.0*x*y+0.3 FROM m WHERE (x*x+y*y)<4.0 AND iter<28) SELECT substr(' .+*#',1+min(max(iter)/7,4),1) AS x FROM m GROUP BY cx);
