#!/bin/sh
# The part of the QEMU guest agent's protocol that a toolstack needs: one JSON object a line, in and out.
version=0.1

sync_mark=$(printf '\377')
commands='guest-sync guest-sync-delimited guest-ping guest-info guest-get-host-name guest-get-osinfo guest-get-time
guest-get-timezone guest-get-users guest-network-get-interfaces guest-shutdown'

port() {
    for candidate in /sys/class/virtio-ports/*; do
        [ "$(cat "$candidate/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] && echo "/dev/${candidate##*/}" && return
    done
}

reply() { printf '{"return": %s}\n' "$1" >&3; }
refuse() { printf '{"error": {"class": "%s", "desc": "%s"}}\n' "$1" "$2" >&3; }

# The value of a member, a number or a string without escapes: all that these commands take.
member() {
    value=${2#*\"$1\"}
    [ "$value" = "$2" ] && return 1
    value=${value#*:}
    value=${value#"${value%%[! ]*}"}
    case $value in
    \"*) value=${value#\"} && value=${value%%\"*} ;;
    *) value=${value%%[!0-9-]*} ;;
    esac
    printf '%s' "$value"
}

info() {
    list=
    for command in $commands; do
        answers=true
        [ "$command" = guest-shutdown ] && answers=false
        list="$list, {\"name\": \"$command\", \"enabled\": true, \"success-response\": $answers}"
    done
    printf '{"version": "%s", "supported_commands": [%s]}' "$version" "${list#, }"
}

osinfo() {
    printf '{"id": "kronos-tiny", "name": "Kronos tiny guest", "pretty-name": "Kronos tiny guest %s", ' "$version"
    printf '"version": "%s", "version-id": "%s", "kernel-release": "%s", "kernel-version": "%s", "machine": "%s"}' \
        "$version" "$version" "$(uname -r)" "$(uname -v)" "$(uname -m)"
}

interfaces() {
    for link in /sys/class/net/*; do
        printf 'link %s %s\n' "${link##*/}" "$(cat "$link/address")"
        ip -o addr show dev "${link##*/}"
    done | awk '
        function finish() { if (name != "") { all = all (all == "" ? "" : ", ") entry "\"ip-addresses\": [" list "]}" } }
        $1 == "link" {
            finish(); name = $2; list = ""
            entry = "{\"name\": \"" $2 "\", \"hardware-address\": \"" $3 "\", "
            next
        }
        $3 == "inet" || $3 == "inet6" {
            split($4, part, "/")
            list = list (list == "" ? "" : ", ") "{\"ip-address\": \"" part[1] "\", \"ip-address-type\": \"" \
                ($3 == "inet" ? "ipv4" : "ipv6") "\", \"prefix\": " (part[2] == "" ? 32 : part[2]) "}"
        }
        END { finish(); print "[" all "]" }'
}

answer() {
    command=$(member execute "$1") || {
        refuse GenericError "QMP input lacks member 'execute'"
        return
    }
    case $command in
    guest-sync) reply "$(member id "$1")" ;;
    guest-sync-delimited)
        printf '\377' >&3
        reply "$(member id "$1")"
        ;;
    guest-ping) reply '{}' ;;
    guest-info) reply "$(info)" ;;
    guest-get-host-name) reply "{\"host-name\": \"$(hostname)\"}" ;;
    guest-get-osinfo) reply "$(osinfo)" ;;
    guest-get-time) reply "$(date +%s)000000000" ;;
    guest-get-timezone) reply '{"zone": "UTC", "offset": 0}' ;;
    guest-get-users) reply '[]' ;;
    guest-network-get-interfaces) reply "$(interfaces)" ;;
    guest-shutdown)
        # A shutdown that has begun is its own answer.
        case $(member mode "$1") in
        '' | powerdown) poweroff ;;
        reboot) reboot ;;
        halt) halt ;;
        *) refuse GenericError "mode is invalid (valid values are: halt|powerdown|reboot)" ;;
        esac
        ;;
    *) refuse CommandNotFound "The command $command has not been found" ;;
    esac
}

until device=$(port) && [ -n "$device" ] && exec 3<>"$device"; do sleep 1; done
request=
while :; do
    # The end of the file means that nobody is at the other end of the channel now.
    IFS= read -r piece <&3 || { request=$request$piece && sleep 1 && continue; }
    request=$request$piece
    # A mark from the host starts afresh, whatever came before it.
    request=${request##*"$sync_mark"}
    case $request in *'{'*) answer "$request" ;; esac
    request=
done
