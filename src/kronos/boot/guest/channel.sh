#!/bin/sh
# The guest's end of the channel to its host (docs/guest-channel.md): asks for the configuration, keeps it as files, a
# key each, in /run/channel/config, and hands on what `say` is given.
home=/run/channel

# On KVM a virtio port has the channel's name. On Xen it is the console after the first; its number is all that there is.
port() {
    for candidate in /sys/class/virtio-ports/*; do
        [ "$(cat "$candidate/name" 2>/dev/null)" = org.kronos.channel ] && echo "/dev/${candidate##*/}" && return
    done
    for candidate in /sys/bus/xen/devices/console-[1-9]*; do
        [ -c "/dev/hvc${candidate##*-}" ] && echo "/dev/hvc${candidate##*-}" && return
    done
}

# Takes {"config":{"key":"value",...}} apart. A key may hold what a file's name may not: '/' becomes '_'.
unpack() {
    awk -v directory="$1" '
        function hex(digits,   value, place) {
            for (place = 1; place <= 4; place++)
                value = 16 * value + index("0123456789abcdef", tolower(substr(digits, place, 1))) - 1
            return value
        }
        function utf8(code) {
            if (code < 128) return sprintf("%c", code)
            if (code < 2048) return sprintf("%c%c", 192 + int(code / 64), 128 + code % 64)
            if (code < 65536)
                return sprintf("%c%c%c", 224 + int(code / 4096), 128 + int(code / 64) % 64, 128 + code % 64)
            return sprintf("%c%c%c%c", 240 + int(code / 262144), 128 + int(code / 4096) % 64,
                128 + int(code / 64) % 64, 128 + code % 64)
        }
        function text(   out, character, code) {
            for (at++; (character = substr(line, at, 1)) != "\"" && character != ""; at++) {
                if (character != "\\") { out = out character; continue }
                character = substr(line, ++at, 1)
                if (character == "u") {
                    code = hex(substr(line, at + 1, 4)); at += 4
                    if (code >= 55296 && code < 56320) {
                        code = 65536 + 1024 * (code - 55296) + hex(substr(line, at + 3, 4)) - 56320; at += 6
                    }
                    out = out utf8(code)
                } else out = out (character in plain ? plain[character] : character)
            }
            at++
            return out
        }
        BEGIN { plain["n"] = "\n"; plain["t"] = "\t"; plain["r"] = "\r"; plain["b"] = "\b"; plain["f"] = "\f" }
        {
            line = $0
            at = index(line, "\"config\":{") + 10
            while (substr(line, at, 1) == "\"") {
                key = text(); at++; value = text()
                if (substr(line, at, 1) == ",") at++
                gsub("/", "_", key)
                if (key !~ /^[A-Za-z0-9_:@+-][A-Za-z0-9_.:@+-]*$/) continue
                printf "%s", value > (directory "/" key)
                close(directory "/" key)
            }
        }'
}

configured() {
    rm -rf $home/new $home/old
    mkdir $home/new
    printf '%s\n' "$1" | unpack $home/new
    mv $home/config $home/old 2>/dev/null
    mv $home/new $home/config
    : >$home/told
    /etc/system configured
}

until device=$(port) && [ -n "$device" ]; do sleep 1; done
case $device in /dev/hvc*) stty -F "$device" raw -echo ;; esac
until exec 3<>"$device"; do sleep 1; done
mkdir -p $home
[ -p $home/say ] || mkfifo $home/say
exec 4<>$home/say
while IFS= read -r line <&4; do printf '%s\n' "$line" >&3; done &
# What an earlier guest, or this one before a crash, left without an end is ended; then the host is asked.
printf '\n{"ask":"config"}\n' >&3
: >$home/up
while :; do
    # The end of the file means that nobody is at the other end of the channel now.
    IFS= read -r line <&3 || { sleep 1 && continue; }
    case $line in
    *'"hello"'*) printf '{"ask":"config"}\n' >&3 ;;
    *'"config":{'*) configured "$line" ;;
    esac
done
