# The interpreter's own SQLite on a file, with a rollback that the journal must undo.
import sqlite3

c = sqlite3.connect("/data/app.db")
c.execute("create table if not exists visits(n integer primary key, who text)")
c.executemany("insert into visits(who) values (?)", [(f"visitor {i}",) for i in range(500)])
c.commit()
c.execute("delete from visits where n % 2 = 0")
print(c.execute("select count(*) from visits").fetchone())
c.rollback()
print(c.execute("select count(*), max(who), sum(length(who)) from visits").fetchone())
print(c.execute("pragma integrity_check").fetchall())
c.close()
