-- The workload behind sqlite3-churn.parquet: a database in memory that grows, is indexed, updated in scattered
-- places, thinned out and read again, so that the heap churns and old pages come back into use.
create table t(id integer primary key, k text, v blob, n integer);
with recursive c(i) as (select 1 union all select i + 1 from c where i < 260)
insert into t(k, v, n)
  select printf('key-%06d', (i * 7919) % 260), zeroblob(100 + (i * 997) % 1800), i % 37 from c;
create index tk on t(k);
update t set v = zeroblob(length(v) / 2 + 700) where n < 9;
delete from t where n between 12 and 17;
with recursive c(i) as (select 1 union all select i + 1 from c where i < 40)
insert into t(k, v, n) select printf('new-%06d', (i * 104729) % 1000), zeroblob(300 + i * 21), i % 7 from c;
select n, count(*), sum(length(v)) from t group by n order by 2 desc, 1 limit 5;
select count(*) from t where length(v) > 900;
select k, length(v) from t where k between 'key-000100' and 'key-000110' order by length(v), k;
