.bail on
CREATE TABLE t(a UNIQUE CHECK(a > 0));
INSERT INTO t VALUES(1);
SELECT 'still here';
INSERT INTO t VALUES(1);
SELECT 'never printed';
