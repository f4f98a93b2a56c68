package io.github.mimomobile.runtime.text

/** Text in, text before the first stop string out; what may be its beginning is held back. */
internal class StopStrings(private val stops: List<String>) {
    private var held = ""

    /** Whether a stop string was seen; nothing more comes then. */
    var stopped: Boolean = false
        private set

    /** The text that certainly comes before a stop string. */
    fun feed(text: String): String {
        if (stopped) return ""
        held += text
        val found = stops.map { held.indexOf(it) }.filter { it >= 0 }.minOrNull()
        if (found != null) stopped = true
        val certain = found ?: (held.length - (stops.maxOfOrNull { overlap(held, it) } ?: 0))
        return held.substring(0, certain).also { held = if (stopped) "" else held.substring(certain) }
    }

    /** What was held back, at the end. */
    fun flush(): String = held.also { held = "" }
}

/** How many of the last characters of [text] begin [word], but are not all of it. */
internal fun overlap(text: String, word: String): Int =
    (minOf(text.length, word.length - 1) downTo 1).firstOrNull { text.endsWith(word.substring(0, it)) } ?: 0
