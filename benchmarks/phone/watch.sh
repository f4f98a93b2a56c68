# Runs a program on the phone and says on stdout what the phone reads meanwhile. benchmarks/phone sends this file and
# understands what it says. For Android's sh (mksh) and toybox, with few processes, since those would be measured, too.
#
# sh watch.sh INTERVAL PROGRAM ARGUMENT…   every INTERVAL seconds, while PROGRAM runs; its output is in watch.out, watch.err
#
# A line is "reading" with a tab and NAME=VALUE for each thing that can be read, or "exit" with a tab and a code.
cd "${0%/*}" || exit 2
interval=$1
shift
tab=$(printf '\t')
peak='' anon='' program=''

# The line of a file in $value; nothing when it cannot be read.
get() {
    value=''
    { read -r value <"$1"; } 2>/dev/null
}

# Peaks of the program's memory in $peak and $anon, in kB; false once it has ended.
memory() {
    alive=false
    {
        while read -r key number _; do
            case $key in
            VmHWM:) peak=$number alive=true ;;
            RssAnon:) [ "$number" -gt "${anon:-0}" ] && anon=$number ;;
            esac
        done <"/proc/$program/status"
    } 2>/dev/null
    $alive
}

reading() {
    line="reading${peak:+${tab}peak_rss_kb=$peak}${anon:+${tab}peak_anon_kb=$anon}"
    for zone in /sys/class/thermal/thermal_zone*; do
        get "$zone/type"
        kind=$value
        get "$zone/temp"
        line="$line${value:+$tab${zone##*/} $kind=$value}"
    done
    for name in current_now voltage_now temp capacity status; do
        get "/sys/class/power_supply/battery/$name"
        line="$line${value:+${tab}battery $name=$value}"
    done
    echo "$line" || exit 3
}

"$@" >watch.out 2>watch.err &
program=$!
# The program must not outlive a broken connection, which the next line to be said runs into.
trap 'kill "$program" 2>/dev/null' EXIT
trap 'exit 3' HUP INT PIPE TERM
reading
count=0
while memory; do
    sleep 0.25
    count=$((count + 1))
    [ $((count % (interval * 4))) -eq 0 ] && reading
done
wait "$program"
code=$?
trap - EXIT
reading
echo "exit$tab$code"
