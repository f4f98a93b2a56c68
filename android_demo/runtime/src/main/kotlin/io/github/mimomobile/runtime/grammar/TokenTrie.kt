package io.github.mimomobile.runtime.grammar

import io.github.mimomobile.runtime.text.Tokenizer

/**
 * A vocabulary by characters: tokens that begin alike are followed together.
 *
 * Tokens of no bytes, whose names alone are special, and tokens that no UTF-8 text has are not in it. Nodes lie in the
 * order of a walk, each before those that continue it; the first is the empty text.
 */
internal class TokenTrie(private val tokenizer: Tokenizer) {
    private val chars: IntArray
    private val depths: IntArray

    /** Where the walk goes on behind all that continues a node. */
    private val ends: IntArray

    /** The tokens of node n: [ids] from place n of this to its next. */
    private val places: IntArray
    private val ids: IntArray

    /** For each of [ids]: which characters its last bytes can begin, first and last; −1 if all of its bytes are characters. */
    private val tails: IntArray

    /** Tokens that begin within a character. */
    private val continuing: IntArray

    /** Tokens that hold no whole character, by their bytes. */
    private val pieces = HashMap<List<Byte>, Int>()

    init {
        class Entry(val id: Int, val decoded: Decoded)
        val entries = ArrayList<Entry>(tokenizer.size)
        val within = mutableListOf<Int>()
        for (id in 0 until tokenizer.size) {
            val bytes = tokenizer.tokenBytes(id)
            if (bytes.isEmpty()) continue
            if (bytes[0] < 0 && bytes.size < 4) pieces[bytes.asList()] = id
            if (bytes[0].toInt() and 0xC0 == 0x80) within += id else Decoded.of(bytes)?.let { entries += Entry(id, it) }
        }
        entries.sortWith { first, second -> compared(first.decoded.chars, second.decoded.chars) }
        val size = 1 + entries.sumOf { it.decoded.chars.size }
        val chars = IntArray(size)
        val depths = IntArray(size)
        val places = IntArray(size + 1)
        ids = IntArray(entries.size)
        tails = IntArray(2 * entries.size)
        var nodes = 1
        var last = IntArray(0)
        for ((place, entry) in entries.withIndex()) {
            val text = entry.decoded.chars
            var shared = 0
            while (shared < minOf(text.size, last.size) && text[shared] == last[shared]) shared++
            for (depth in shared until text.size) {
                chars[nodes] = text[depth]
                depths[nodes] = depth + 1
                places[nodes++] = place
            }
            last = text
            ids[place] = entry.id
            tails[2 * place] = entry.decoded.tail?.first ?: -1
            tails[2 * place + 1] = entry.decoded.tail?.last ?: -1
        }
        places[nodes] = entries.size
        this.chars = chars.copyOf(nodes)
        this.depths = depths.copyOf(nodes)
        this.places = places.copyOf(nodes + 1)
        ends = IntArray(nodes)
        val open = ArrayDeque<Int>()
        for (node in 0 until nodes) {
            while (open.isNotEmpty() && depths[open.last()] >= depths[node]) ends[open.removeLast()] = node
            open += node
        }
        open.forEach { ends[it] = nodes }
        continuing = within.toIntArray()
    }

    /** Which tokens may come at [state], after [begun], the first bytes of a character: one bit for each id. */
    fun allowed(automaton: Automaton, state: State, begun: ByteArray): LongArray {
        val found = LongArray((tokenizer.size + Long.SIZE_BITS - 1) / Long.SIZE_BITS)
        if (begun.isNotEmpty()) {
            for (id in continuing) if (automaton.after(state, begun, tokenizer.tokenBytes(id)) != null) found.add(id)
            return found
        }
        val states = arrayOfNulls<State>(depths.max() + 1)
        var node = 0
        while (node < chars.size) {
            val depth = depths[node]
            val here = if (node == 0) state else automaton.next(checkNotNull(states[depth - 1]), chars[node])
            if (here == null) {
                node = ends[node]
                continue
            }
            states[depth] = here
            for (place in places[node] until places[node + 1]) {
                val first = tails[2 * place]
                if (first < 0 || automaton.meets(here, first, tails[2 * place + 1])) found.add(ids[place])
            }
            node++
        }
        return found
    }

    /** The token of bytes that are no whole character; null if there is none. */
    fun piece(bytes: ByteArray): Int? = pieces[bytes.asList()]

    /** Whether a token begins with [end], the last bytes of a text, and with more that may come at [state] after [begun]. */
    fun goesOn(automaton: Automaton, state: State, begun: ByteArray, end: ByteArray): Boolean {
        fun may(id: Int): Boolean {
            val bytes = tokenizer.tokenBytes(id)
            return bytes.size > end.size && end.indices.all { bytes[it] == end[it] } &&
                automaton.after(state, begun, bytes.copyOfRange(end.size, bytes.size)) != null
        }
        if (end[0].toInt() and 0xC0 == 0x80) return continuing.any(::may)
        var top = 0
        for (char in (Decoded.of(end) ?: return false).chars) top = child(top, char) ?: return false
        if ((places[top] until places[top + 1]).any { tails[2 * it] >= 0 && may(ids[it]) }) return true
        val states = HashMap<Int, State>()
        states[depths[top]] = state
        var node = top + 1
        while (node < ends[top]) {
            val depth = depths[node]
            val first = depth - 1 == depths[top]
            val fits = !first || begun.isEmpty() || CertainText.bytes(chars[node]).let { it.copyOf(begun.size).contentEquals(begun) }
            val here = if (fits) automaton.next(states.getValue(depth - 1), chars[node]) else null
            if (here == null) {
                node = ends[node]
                continue
            }
            states[depth] = here
            for (place in places[node] until places[node + 1]) {
                val tail = tails[2 * place]
                if (tail < 0 || automaton.meets(here, tail, tails[2 * place + 1])) return true
            }
            node++
        }
        return false
    }

    private fun child(node: Int, char: Int): Int? {
        var child = node + 1
        while (child < ends[node]) {
            if (chars[child] == char) return child
            child = ends[child]
        }
        return null
    }

    private fun LongArray.add(id: Int) {
        this[id / Long.SIZE_BITS] = this[id / Long.SIZE_BITS] or (1L shl id % Long.SIZE_BITS)
    }

    private fun compared(first: IntArray, second: IntArray): Int {
        for (place in 0 until minOf(first.size, second.size)) {
            if (first[place] != second[place]) return first[place].compareTo(second[place])
        }
        return first.size.compareTo(second.size)
    }
}

/**
 * Bytes as characters.
 *
 * @property rest The first bytes of a character that is not whole, at the end.
 * @property tail The characters that [rest] can begin, null if there is none.
 */
internal class Decoded private constructor(val chars: IntArray, val rest: ByteArray, val tail: IntRange?) {
    companion object {
        /** Null if no UTF-8 text has these bytes from a character's beginning on. */
        fun of(bytes: ByteArray): Decoded? {
            val chars = IntArray(bytes.size)
            var count = 0
            var at = 0
            while (at < bytes.size) {
                val first = bytes[at].toInt() and 0xFF
                val length = when (first) {
                    in 0..0x7F -> 1
                    in 0xC2..0xDF -> 2
                    in 0xE0..0xEF -> 3
                    in 0xF0..0xF4 -> 4
                    else -> return null
                }
                val end = minOf(at + length, bytes.size)
                var char = if (length == 1) first else first and (0x7F shr length)
                for (place in at + 1 until end) {
                    if (bytes[place].toInt() and 0xC0 != 0x80) return null
                    char = char shl 6 or (bytes[place].toInt() and 0x3F)
                }
                val missing = 6 * (length - (end - at))
                val least = intArrayOf(0, 0x80, 0x800, 0x10000)[length - 1]
                val possible = CharSet.of(listOf(maxOf(char shl missing, least)..minOf(((char + 1) shl missing) - 1, CharSet.LAST)))
                if (possible.isEmpty) return null
                if (missing > 0) {
                    val tail = possible.bounds.first()..possible.bounds.last()
                    return Decoded(chars.copyOf(count), bytes.copyOfRange(at, bytes.size), tail)
                }
                chars[count++] = char
                at = end
            }
            return Decoded(chars.copyOf(count), ByteArray(0), null)
        }
    }
}
