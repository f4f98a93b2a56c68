# For scripts that set something up in the folder $out, by functions that are done once: `source` it after $out, $python
# and $label are set.

# Does the step $1 once: runs the function $2 with its output in a log, as a job, so that its first error ends it. It is
# done again when its text here or the version of a package has changed.
once() {
    local what=$1 log=$out/$2.log done=$out/$2.done state
    state=$(declare -f "$2" && echo "$versions")
    if [ -e "$done" ] && [ "$(<"$done")" = "$state" ]; then return; fi
    echo "$label: $what (log: $log)" >&2
    "$2" >"$log" 2>&1 &
    if ! wait $!; then
        tail -n 25 "$log" >&2
        echo "$label: $what: failed; the whole log is in $log" >&2
        exit 1
    fi
    echo "$state" >"$done"
}

version_of() {
    "$python" -c "import importlib.metadata as m; print(m.version('$1'))"
}
