package io.github.mimomobile.runtime.text

/**
 * Text in, text before the first stop string out; what may be its beginning is held back.
 *
 * The first one is that which begins first. It is known when none that began earlier can be completed any more, so that
 * it does not matter where the text was cut into pieces.
 */
internal class StopStrings(private val stops: List<String>) {
    private var held = ""

    /** Whether a stop string was seen; nothing more comes then. */
    var stopped: Boolean = false
        private set

    /** The text that certainly comes before a stop string. */
    fun feed(text: String): String {
        if (stopped) return ""
        held += text
        return release(held.length - (stops.maxOfOrNull { overlap(held, it) } ?: 0))
    }

    /** What was held back, at the end: what was begun will not be completed. */
    fun flush(): String = release(held.length)

    /** The text before the first whole stop string, but only up to where another one has [begun]. */
    private fun release(begun: Int): String {
        val found = stops.map { held.indexOf(it) }.filter { it >= 0 }.minOrNull()
        if (found != null && found <= begun) stopped = true
        val end = minOf(found ?: begun, begun)
        return held.substring(0, end).also { held = if (stopped) "" else held.substring(end) }
    }
}

/** How many of the last characters of [text] begin [word], but are not all of it. */
internal fun overlap(text: String, word: String): Int =
    (minOf(text.length, word.length - 1) downTo 1).firstOrNull { text.endsWith(word.substring(0, it)) } ?: 0
