package io.github.mimomobile.runtime.llama

import com.sun.jna.Memory
import java.util.BitSet

/**
 * Whether a copy of a KV cache is one sequence's, and its layers as another context of llama.cpp has them. The same as
 * Python's runtime/llama/state_check.py.
 *
 * llama.cpp ends the process at some copies that are no sequence's. A copy has one part for each cache of the context, which
 * has two when some layers belong to a window of their own. llama.cpp itself checks types and sizes; this class knows
 * positions and layers, and of the rest only what leads to them. The layout is that of `llama_kv_cache::state_write`.
 */
internal class StateCheck(private val state: Memory) {
    /** Where one part has its cells, and the keys and the values of each of its layers. */
    private class Part(val cells: LongRange, val transposed: Int, val keys: List<LongRange>, val values: List<LongRange>) {
        val count: Long get() = cells.bytes / CELL
    }

    /** Null when it ends early, or behind its parts. */
    private val parts: List<Part>? = try {
        buildList {
            var place = HEAD
            while (place != state.size()) {
                if (size == MOST_PARTS) throw IndexOutOfBoundsException("parts")
                place = part(place, ::add)
            }
        }
    } catch (_: IndexOutOfBoundsException) {
        null
    } catch (_: ArithmeticException) {
        null
    }

    /** Whether it is of [tokens] positions, each once in each part; with [gaps] some may be missing. */
    fun hasPositions(tokens: Int, gaps: Boolean): Boolean = parts?.all { arePositions(it, tokens, gaps) } ?: false

    /**
     * A copy whose parts have [layers], of this one, which has its layers in [order]; the same when it has them so already,
     * null when its layers or cells do not go together.
     */
    fun arranged(order: List<Int>, layers: List<List<Int>>): Memory? {
        val parts = parts ?: return null
        if (parts.map { it.keys.size } == layers.map { it.size } && order == layers.flatten()) return state
        val first = parts.firstOrNull() ?: return null
        val count = parts.sumOf { it.keys.size }
        if (count != layers.sumOf { it.size } || order.sorted() != List(count) { it } || parts.any { !alike(it, first) }) return null
        val (keys, values) = Pair(parts.flatMap { it.keys }, parts.flatMap { it.values })
        val places = IntArray(count).also { order.forEachIndexed { place, layer -> it[layer] = place } }
        val size = HEAD + layers.size * (2L * WORDS + first.cells.bytes) + (keys + values).sumOf { it.bytes }
        return Memory(size).also { made ->
            var end = made.put(0, state, 0 until HEAD)
            for (part in layers) {
                end = made.put(made.put(end, 1, first.count.toInt()), state, first.cells)
                end = made.put(end, first.transposed, part.size)
                for (side in listOf(keys, values)) for (layer in part) end = made.put(end, state, side[places[layer]])
            }
        }
    }

    /** Gives [add] the part that begins at [start]; returns where it ends. */
    private fun part(start: Long, add: (Part) -> Unit): Long {
        if (unsigned(start) != 1L) throw ArithmeticException("streams")
        val cells = start + WORDS until start + WORDS + CELL * unsigned(start + Int.SIZE_BYTES)
        val end = cells.last + 1
        if (end > state.size()) throw IndexOutOfBoundsException("cells")
        if (cells.isEmpty()) return (start + WORDS).also { add(Part(cells, 0, emptyList(), emptyList())) }
        val (transposed, layers) = Pair(state.getInt(end), unsigned(end + Int.SIZE_BYTES))
        if (layers > MOST_LAYERS) throw ArithmeticException("$layers layers")
        var place = end + WORDS
        val sides = List(2 * layers.toInt()) { index ->
            val from = place
            place = endOfLayer(place, cells.bytes / CELL, isTransposed = index >= layers && transposed != 0)
            from until place
        }
        add(Part(cells, transposed, sides.take(layers.toInt()), sides.drop(layers.toInt())))
        return place
    }

    /** Where keys or values of [count] cells end: behind their type, their size and themselves. */
    private fun endOfLayer(start: Long, count: Long, isTransposed: Boolean): Long {
        val place = start + Int.SIZE_BYTES
        val size = if (isTransposed) Math.multiplyExact(unsigned(place), unsigned(place + Int.SIZE_BYTES)) else state.getLong(place)
        if (size < 0) throw ArithmeticException("a size of $size bytes")
        val end = Math.addExact(place + Long.SIZE_BYTES, Math.multiplyExact(size, count))
        if (end > state.size()) throw IndexOutOfBoundsException("keys or values")
        return end
    }

    private fun arePositions(part: Part, tokens: Int, gaps: Boolean): Boolean {
        if (part.count > tokens || part.count < tokens && !gaps) return false
        val found = BitSet(tokens)
        for (cell in part.cells step CELL) { // a position, how many sequences there are, and which it was
            val position = state.getInt(cell)
            if (position !in 0 until tokens || found[position] || unsigned(cell + Int.SIZE_BYTES) != 1L) return false
            found.set(position)
        }
        return true
    }

    /** Whether parts are of the same positions in the same order; what else cells say llama.cpp does not read, or it is the same. */
    private fun alike(one: Part, other: Part): Boolean = one.transposed == other.transposed && one.count == other.count &&
        (0 until one.count).all { state.getInt(one.cells.first + CELL * it) == state.getInt(other.cells.first + CELL * it) }

    private fun unsigned(place: Long): Long = state.getInt(place).toLong() and 0xFFFF_FFFFL

    private fun Memory.put(place: Long, first: Int, second: Int): Long {
        setInt(place, first)
        setInt(place + Int.SIZE_BYTES, second)
        return place + WORDS
    }

    /** Copies a range of [source] to [place]; returns where it ends. */
    private fun Memory.put(place: Long, source: Memory, range: LongRange): Long {
        for (done in 0 until range.bytes step PIECE) {
            val count = minOf(PIECE, range.bytes - done)
            getByteBuffer(place + done, count).put(source.getByteBuffer(range.first + done, count))
        }
        return place + range.bytes
    }

    companion object {
        /** How a context divides layers, of which some belong to a window: a list of its parts. */
        fun partsOfLayers(windows: List<Boolean>): List<List<Int>> {
            val kinds = listOf(false, true).map { kind -> windows.indices.filter { windows[it] == kind } }
            return if (windows.any { it }) kinds else listOf(windows.indices.toList())
        }

        /** Two words at the beginning, which are llama.cpp's own. */
        private const val HEAD = 8L

        /** Two words before cells, and before layers. */
        private const val WORDS = 8
        private const val CELL = 12L
        private const val MOST_PARTS = 2
        private const val MOST_LAYERS = 1000L
        private const val PIECE = 1L shl 30

        private val LongRange.bytes: Long get() = last + 1 - first
    }
}
