package io.github.mimomobile.runtime.text

import java.util.PriorityQueue

/** Byte-level byte pair encoding: bytes of a word in, token ids out. Safe to use from several threads. */
internal class Bpe(private val tokens: TokenTable, private val merges: MergeTable) {
    private val byteIds = IntArray(256) { tokens.find(byteArrayOf(it.toByte()), 0, 1) }

    init {
        val missing = byteIds.indexOf(-1)
        if (missing >= 0) throw TokenizerException("no token for the byte $missing; not a byte-level vocabulary")
    }

    /** Adds the tokens of [word] to [out]: the pair of lowest rank is merged first, of equals the first. */
    fun encode(word: ByteArray, out: IntList) {
        val ids = IntArray(word.size) { byteIds[word[it].toInt() and 0xFF] }
        val previous = IntArray(word.size) { it - 1 }
        val following = IntArray(word.size) { it + 1 }
        val candidates = PriorityQueue<Long>()

        fun offer(left: Int) {
            val rank = merges.rank(ids[left], ids[following[left]])
            if (rank >= 0) candidates.add(rank.toLong() shl 32 or left.toLong())
        }

        for (left in 0 until word.size - 1) offer(left)
        while (true) {
            val candidate = candidates.poll() ?: break
            val rank = (candidate shr 32).toInt()
            val left = candidate.toInt()
            val right = following[left]
            // What was offered may have been merged with another neighbour meanwhile.
            if (ids[left] == MERGED || right == word.size || merges.rank(ids[left], ids[right]) != rank) continue
            ids[left] = merges.merged(rank)
            ids[right] = MERGED
            following[left] = following[right]
            if (following[left] < word.size) {
                previous[following[left]] = left
                offer(left)
            }
            if (previous[left] >= 0) offer(previous[left])
        }
        for (id in ids) if (id != MERGED) out.add(id)
    }

    private companion object {
        const val MERGED = -1
    }
}
