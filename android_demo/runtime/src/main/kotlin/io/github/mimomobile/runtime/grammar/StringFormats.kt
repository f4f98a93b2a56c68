package io.github.mimomobile.runtime.grammar

private const val DATE = "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])" +
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|[12][0-9]))"
private const val HOUR = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
private const val TIME = "$HOUR:(?:[0-5][0-9]|60)(?:\\.[0-9]+)?(?:[zZ]|[+-]$HOUR)"
private const val BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
private const val IPV4 = "(?:$BYTE\\.){3}$BYTE"
private const val LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
private const val ATOM = "[a-zA-Z0-9!#$%&'*+\\-/=?\\^_`{|}~]+"

/**
 * Formats of strings in a JSON schema, as regular expressions: dates and times by RFC 3339, with 29 days in every
 * February, mail addresses by RFC 5321 without quotes, hosts by RFC 1123, UUIDs by RFC 4122.
 */
internal val STRING_FORMATS: Map<String, String> = mapOf(
    "date" to DATE,
    "time" to TIME,
    "date-time" to "$DATE[tT]$TIME",
    "uuid" to "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "ipv4" to IPV4,
    "hostname" to "$LABEL(?:\\.$LABEL)*",
    "email" to "$ATOM(?:\\.$ATOM)*@(?:$LABEL(?:\\.$LABEL)*|\\[$IPV4])",
)
