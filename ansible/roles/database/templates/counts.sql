-- Rows by table, exactly.
SELECT table_name, (xpath('/row/rows/text()', query_to_xml(
    format('SELECT count(*) AS rows FROM %I.%I', table_schema, table_name), false, true, '')))[1]::text AS rows
FROM information_schema.tables
WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
ORDER BY table_name;
