#!/bin/sh
# say KEY=VALUE...: tell the host; say KEY: take it back.
[ -e /run/channel/up ] || { echo "say: there is no channel to the host" >&2 && exit 1; }
for pair in "$@"; do printf '%s\036' "$pair"; done | awk '
    function quoted(text) {
        gsub(/\\/, "\\\\", text); gsub(/"/, "\\\"", text); gsub(/\n/, "\\n", text); gsub(/\t/, "\\t", text)
        gsub(/[\001-\037]/, "", text)
        return "\"" text "\""
    }
    BEGIN { RS = "\036"; printf "{\"say\":{" }
    {
        middle = index($0, "=")
        key = middle ? substr($0, 1, middle - 1) : $0
        printf "%s%s:%s", (NR > 1 ? "," : ""), quoted(key), (middle ? quoted(substr($0, middle + 1)) : "null")
    }
    END { printf "}}\n" }' >/run/channel/say
