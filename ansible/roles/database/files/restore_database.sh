#!/bin/bash
# Restores one database from a backup without a change to the live one until the backup is verified.
#
#   restore_database.sh prepare DATABASE   restore FOLDER/DATABASE.dump into a scratch database, count its rows
#   restore_database.sh swap DATABASE      rename the scratch database to the live one, and keep the live one
#   restore_database.sh discard DATABASE   drop the scratch database
#
# Environment: FOLDER (of the backup), OWNER and OWNER_PASSWORD (of the database), PGUSER and PGPASSWORD (of an
# administrator, who may create databases), COUNTS (the file of SQL that counts rows) and libpq's variables.
set -euo pipefail

action=$1
database=$2
scratch="${database}_restore"
previous="${database}_before_$(date --utc +%Y%m%dT%H%M%SZ)"
run_sql=(psql --no-psqlrc --quiet --no-align --tuples-only --set ON_ERROR_STOP=1)

fail() {
    echo "$1 The live database $database was not changed." >&2
    exit 1
}

as_owner() {
    PGUSER=$OWNER PGPASSWORD=$OWNER_PASSWORD PGDATABASE=$scratch "$@"
}

exists() {
    [ "$(PGDATABASE=postgres "${run_sql[@]}" --set name="$1" --file - <<<"SELECT count(*) FROM pg_database WHERE datname = :'name'")" = 1 ]
}

check_counts() {
    as_owner "${run_sql[@]}" --file "$COUNTS" >"$FOLDER/$database.restored" || fail "The restored rows cannot be counted."
    diff "$FOLDER/$database.counts" "$FOLDER/$database.restored" >&2 || fail "The restored rows are not those of the backup (see above)."
}

drop_scratch() {
    PGDATABASE=postgres "${run_sql[@]}" --set name="$scratch" --file - <<<'DROP DATABASE IF EXISTS :"name"'
}

case $action in
prepare)
    for file in "$FOLDER/$database.dump" "$FOLDER/$database.counts"; do
        [ -s "$file" ] || fail "The backup has no $file, or it is empty."
    done
    drop_scratch || fail "An earlier scratch database $scratch cannot be dropped."
    PGDATABASE=postgres "${run_sql[@]}" --set name="$scratch" --set owner="$OWNER" --file - <<'SQL' || fail "The scratch database $scratch cannot be created."
CREATE DATABASE :"name" OWNER :"owner";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
    trap 'status=$?; [ $status = 0 ] || drop_scratch || true; exit $status' EXIT
    as_owner pg_restore --exit-on-error --single-transaction --no-owner --no-privileges --dbname "$scratch" \
        "$FOLDER/$database.dump" || fail "$FOLDER/$database.dump cannot be restored as a whole."
    check_counts
    awk -F'|' -v name="$database" '{ rows += $2 } END { print name ": " NR " tables, " rows " rows, as in the backup" }' \
        "$FOLDER/$database.restored"
    ;;
swap)
    exists "$scratch" || fail "There is no scratch database $scratch: run prepare first."
    check_counts
    if exists "$database"; then
        # One transaction renames both databases. An open session would prevent it.
        PGDATABASE=postgres "${run_sql[@]}" --single-transaction --output /dev/null --set live="$database" --set scratch="$scratch" \
            --set previous="$previous" --file - <<'SQL' || fail "The databases cannot be renamed."
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname IN (:'live', :'scratch') AND pid <> pg_backend_pid();
ALTER DATABASE :"live" RENAME TO :"previous";
ALTER DATABASE :"scratch" RENAME TO :"live";
SQL
        echo "$database is restored. The database of before is kept as $previous: drop it once you have checked the site."
    else
        PGDATABASE=postgres "${run_sql[@]}" --set live="$database" --set scratch="$scratch" --file - \
            <<<'ALTER DATABASE :"scratch" RENAME TO :"live"' || fail "The scratch database cannot be renamed."
        echo "$database is restored."
    fi
    ;;
discard)
    drop_scratch
    ;;
*)
    echo "Unknown action $action: use prepare, swap or discard." >&2
    exit 2
    ;;
esac
