#!/usr/bin/env bash
# Follows a stream with curl, and prints every message, of all types:
#
#	follow.sh <url> <type>...
#
# curl does not come back in a way that resumes, so the loop is here.
export LC_ALL=C # bytes: what is UTF-8 passes as it is

position='' retry=3000

# quote writes a string of JSON into the variable $quoted.
quote() {
	quoted=${1//\\/\\\\}
	quoted=${quoted//\"/\\\"}
	quoted=${quoted//$'\n'/\\n}
	if [[ $quoted == *[[:cntrl:]]* ]]; then
		local code char escape
		for code in {1..31}; do
			printf -v escape '\\u%04x' "$code"
			printf -v char %b "\\x${escape: -2}"
			quoted=${quoted//"$char"/"$escape"}
		done
	fi
	quoted="\"$quoted\""
}

# print prints the message that is complete.
print() {
	local type id
	quote "$kind" && type=$quoted
	quote "$position" && id=$quoted
	quote "${data%$'\n'}" # every line has added one
	printf '{"type":%s,"id":%s,"data":%s}\n' "$type" "$id" "$quoted"
}

while :; do
	headers=(-H 'Accept: text/event-stream')
	[ -z "$position" ] || headers+=(-H "Last-Event-ID: $position")
	kind='' data='' seen=''
	# a line that the end of the connection cuts is none to read
	while IFS= read -r line; do
		value=${line#*:}
		value=${value# }
		case $line in
		'')
			position=${seen:-$position}
			[ -z "$data" ] || print
			kind='' data='' seen=''
			;;
		event:*) kind=$value ;;
		data:*) data+=$value$'\n' ;;
		id:*) seen=$value ;;
		retry:*) retry=$value ;;
		esac
	done < <(exec curl --no-buffer --silent --fail "${headers[@]}" "$1")
	sleep "$((retry / 1000)).$(printf %03d $((retry % 1000)))"
done
