#!/bin/sh
# Makes the store of a folder beside this file, with the binary of a release that writes its format:
#
#   tests/it/stores/make.sh PATH/TO/portcullis tests/it/stores/format-1
#
# What is made: the store's files in `data`, the keys' texts in `secrets.json` (by name), what the key API says of them
# in `keys.json`. The keys open nothing but this store. Needs jq.
set -eu
portcullis=$1 folder=$2
mkdir -p "$folder"
work=$(mktemp -d)
trap 'kill "$gate" 2>/dev/null || true; rm -rf "$work"' EXIT
serving() {
    address=
    until [ -n "$address" ]; do
        sleep 0.1
        address=$(jq -r '.. | objects | .public // empty' "$work/log" | head -n 1)
    done
    export PORTCULLIS_URL="http://$address"
}
as() { PORTCULLIS_KEY=$1; export PORTCULLIS_KEY; shift; "$portcullis" keys "$@"; }
cat > "$work/portcullis.toml" <<'TOML'
[listen]
public = "127.0.0.1:0"
ops = "127.0.0.1:0"
workers = 1
[log]
format = "json"
[store]
path = "data"
[keys]
last_used_flush = "100ms"
[scopes]
"team:retired" = "Declared no longer when the store is read"
[upstream.main]
url = "http://127.0.0.1:9"
[upstream.main.routes]
"GET /api/{*rest}" = "monitor:read"
TOML
(umask 077; "$portcullis" init --config "$work/portcullis.toml" > "$work/root.key")
"$portcullis" serve --config "$work/portcullis.toml" 2> "$work/log" & gate=$!
serving
root=$(cat "$work/root.key")
secret() { printf '{"%s":"%s"}\n' "$1" "$2" >> "$work/secrets"; }
secret root "$root"
make() { name=$1; shift; made=$(as "$root" create --name "$name" "$@" 2>/dev/null); secret "$name" "$made"; }
make reader --kind custom --scope monitor:read
make writer --kind custom --scope monitor:read,monitor:write
make sender --kind telemetry
make sdk --kind sdk_integration
make retired --kind custom --scope monitor:read,team:retired
make manager --kind custom --scope key:read,key:write,issue:read
make narrowed --kind custom --scope monitor:read,monitor:write,issue:read
as "$root" update "$(echo "$made" | cut -c1-16)" --scope issue:read > /dev/null
make 'Größe ✓' --kind custom --scope monitor:read
make deleted --kind custom --scope monitor:read,monitor:write
as "$root" delete "$(echo "$made" | cut -c1-16)" > /dev/null
for used in "$root" $(jq -r '.reader // .sender // .narrowed // empty' "$work/secrets"); do as "$used" get self > /dev/null; done
sleep 1
kill -TERM "$gate"; wait "$gate" || true
# What is told of the keys is told by a second start, so that it is what the files hold.
"$portcullis" serve --config "$work/portcullis.toml" 2> "$work/log" & gate=$!
serving
as "$root" list --json > "$work/keys.json"
kill -KILL "$gate"; wait "$gate" || true
rm -rf "$folder/data"
cp -R "$work/data" "$folder/data"
rm -f "$folder/data/portcullis.lock"
jq -s add "$work/secrets" > "$folder/secrets.json"
cp "$work/keys.json" "$folder/keys.json"
