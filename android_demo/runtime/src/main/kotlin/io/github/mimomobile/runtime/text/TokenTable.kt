package io.github.mimomobile.runtime.text

/**
 * The bytes of every learnt token, by id, and the id by bytes.
 *
 * One array holds all bytes, so that 150,000 tokens take some 3 MB instead of as many strings.
 */
internal class TokenTable {
    private var pool = ByteArray(1 shl 16)
    private var used = 0
    private var starts = IntArray(1024)
    private var ends = IntArray(1024)
    private var slots = IntArray(1)

    /** One more than the largest id. */
    var size: Int = 0
        private set

    /**
     * Enters the first [length] of [bytes] as token [id].
     *
     * @throws TokenizerException There is another token of this id.
     */
    fun add(id: Int, bytes: ByteArray, length: Int) {
        if (id >= starts.size) {
            starts = starts.copyOf(maxOf(id + 1, 2 * starts.size))
            ends = ends.copyOf(starts.size)
        }
        if (ends[id] > starts[id]) throw TokenizerException("two tokens with the id $id")
        while (used + length > pool.size) pool = pool.copyOf(2 * pool.size)
        bytes.copyInto(pool, used, 0, length)
        starts[id] = used
        used += length
        ends[id] = used
        size = maxOf(size, id + 1)
    }

    /**
     * Makes [find] possible, after the last [add].
     *
     * @throws TokenizerException A token has two ids.
     */
    fun index() {
        slots = IntArray(slotsFor(size))
        for (id in 0 until size) {
            if (starts[id] == ends[id]) continue
            var slot = hash(pool, starts[id], ends[id]) and slots.size - 1
            while (slots[slot] != 0) {
                if (equal(slots[slot] - 1, pool, starts[id], ends[id])) {
                    throw TokenizerException("a token with the ids ${slots[slot] - 1} and $id")
                }
                slot = slot + 1 and slots.size - 1
            }
            slots[slot] = id + 1
        }
    }

    /** The token of these bytes, or -1. */
    fun find(bytes: ByteArray, start: Int, end: Int): Int {
        var slot = hash(bytes, start, end) and slots.size - 1
        while (slots[slot] != 0) {
            val id = slots[slot] - 1
            if (equal(id, bytes, start, end)) return id
            slot = slot + 1 and slots.size - 1
        }
        return -1
    }

    /** The bytes of a token; none where there is no token. */
    fun bytes(id: Int): ByteArray = if (id < size) pool.copyOfRange(starts[id], ends[id]) else ByteArray(0)

    private fun equal(id: Int, bytes: ByteArray, start: Int, end: Int): Boolean {
        if (ends[id] - starts[id] != end - start) return false
        for (index in 0 until end - start) if (pool[starts[id] + index] != bytes[start + index]) return false
        return true
    }

    /** FNV-1a. */
    private fun hash(bytes: ByteArray, start: Int, end: Int): Int {
        var hash = -2128831035
        for (index in start until end) hash = (hash xor (bytes[index].toInt() and 0xFF)) * 16777619
        return hash xor (hash ushr 15)
    }
}

/** A power of two at which open addressing stays quick. */
internal fun slotsFor(entries: Int): Int = Integer.highestOneBit(maxOf(entries, 8)) shl 2
