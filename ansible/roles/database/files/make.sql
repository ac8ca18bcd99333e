\getenv owner OWNER
\getenv password OWNER_PASSWORD
SELECT format('CREATE ROLE %I', :'owner') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'owner') \gexec
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', :'owner', :'password') \gexec
-- A managed server's administrator is no superuser: who gives a database away must belong to its owner.
SELECT format('GRANT %I TO CURRENT_USER', :'owner') \gexec
SELECT format('CREATE DATABASE %I', :'owner') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'owner') \gexec
SELECT format('ALTER DATABASE %I OWNER TO %I', :'owner', :'owner') \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'owner') \gexec
