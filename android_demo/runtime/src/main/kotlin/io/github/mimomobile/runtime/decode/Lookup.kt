package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.text.IntList

/** Where each three tokens stood last in the text: what followed them there may follow again. */
internal class Lookup {
    private val tokens = IntList()
    private val places = HashMap<Triple<Int, Int, Int>, Int>()

    /** A new text begins with [ids]. */
    fun reset(ids: IntArray) {
        tokens.truncate(0)
        places.clear()
        ids.forEach(::append)
    }

    /** The text goes on by [token]; what it ends can be found once another token follows. */
    fun append(token: Int) {
        last()?.let { places[it] = tokens.size }
        tokens.add(token)
    }

    /** At most [count] tokens that followed the last three when they stood here before. */
    fun following(count: Int): IntArray {
        val place = last()?.let(places::get) ?: return IntArray(0)
        return IntArray(minOf(count, tokens.size - place)) { tokens[place + it] }
    }

    private fun last(): Triple<Int, Int, Int>? {
        val size = tokens.size
        return if (size < 3) null else Triple(tokens[size - 3], tokens[size - 2], tokens[size - 1])
    }
}
