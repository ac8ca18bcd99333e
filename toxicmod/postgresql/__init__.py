"""Django's PostgreSQL backend with a limit on each wait for the server; `settings.DATABASES` names it."""
