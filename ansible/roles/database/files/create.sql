\getenv owner OWNER
\getenv password OWNER_PASSWORD
SELECT format('CREATE ROLE %I', :'owner') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'owner') \gexec
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', :'owner', :'password') \gexec
-- The administrator of a managed server is no superuser, so it must be a member of the new owner's role.
SELECT format('GRANT %I TO CURRENT_USER', :'owner') \gexec
SELECT format('CREATE DATABASE %I', :'owner') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'owner') \gexec
SELECT format('ALTER DATABASE %I OWNER TO %I', :'owner', :'owner') \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'owner') \gexec
