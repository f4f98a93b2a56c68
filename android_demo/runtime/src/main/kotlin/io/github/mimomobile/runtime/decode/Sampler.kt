package io.github.mimomobile.runtime.decode

import java.util.PriorityQueue
import kotlin.math.exp

/** Logits were NaN or infinite; between a sampler and the decoder only, never seen by users. */
internal class NotFinite : Exception() {
    override fun fillInStackTrace(): Throwable = this
}

/** Logits → token id; the random number is an argument. Knows no tokens. */
internal class Sampler(
    private val temperature: Double,
    private val topK: Int = 0,
    private val topP: Double = 1.0,
    private val minP: Double = 0.0,
) {
    /**
     * A token id drawn from the first [size] of [logits]: temperature first, then top-k, top-p and min-p.
     *
     * The arithmetic is runtime/decode/sampling.py's, so that one random number gives one token in both.
     *
     * @param uniform From 0 to below 1, the random number.
     * @throws NotFinite One of these logits is NaN or infinite.
     */
    fun sample(logits: FloatArray, size: Int, uniform: Double): Int {
        if (temperature == 0.0) return largest(logits, size)
        val peak = logits[largest(logits, size)] / temperature
        fun weight(id: Int) = exp(logits[id] / temperature - peak)
        var total = 0.0
        for (id in 0 until size) total += weight(id)

        val count = minOf(if (topK == 0) size else topK, size)
        var ids = mostLikely(logits, size, minOf(count, CANDIDATES))
        if (count > CANDIDATES && (topP >= 1 || ids.sumOf { weight(it) } < topP * total)) {
            ids = mostLikely(logits, size, count)
        }

        val cumulative = DoubleArray(ids.size)
        var sum = 0.0
        var kept = 0
        if (topK > 0) total = ids.sumOf { weight(it) }
        for (id in ids) {
            val weight = weight(id)
            // One is kept when those before it do not reach topP yet.
            if (topP < 1 && sum + weight - weight >= topP * total) break
            if (minP > 0 && kept > 0 && weight < minP * cumulative[0]) break
            sum += weight
            cumulative[kept++] = sum
        }
        val target = uniform * sum
        return ids[(0 until kept).firstOrNull { cumulative[it] > target } ?: (kept - 1)]
    }

    /** The id of the largest logit, the first of several; the comparisons find NaN and infinity on the way. */
    private fun largest(logits: FloatArray, size: Int): Int {
        var best = 0
        var peak = -Float.MAX_VALUE
        for (id in 0 until size) {
            val logit = logits[id]
            if (logit <= peak && logit >= -Float.MAX_VALUE) continue
            if (!logit.isFinite()) throw NotFinite()
            best = id
            peak = logit
        }
        return best
    }

    /** Ids of the [count] largest, sorted; equal ones by id. */
    private fun mostLikely(logits: FloatArray, size: Int, count: Int): IntArray {
        val keys = if (count == size) LongArray(size) { key(logits[it], it) } else smallestKeys(logits, size, count)
        keys.sort()
        return IntArray(count) { keys[it].toInt() }
    }

    private fun smallestKeys(logits: FloatArray, size: Int, count: Int): LongArray {
        val kept = PriorityQueue<Long>(count, reverseOrder())
        var worst = Long.MAX_VALUE
        for (id in 0 until size) {
            val key = key(logits[id], id)
            if (key >= worst) continue
            if (kept.size == count) kept.poll()
            kept.add(key)
            if (kept.size == count) worst = kept.peek()!!
        }
        return kept.toLongArray()
    }

    /** Sorts by logit, falling, then by id: a float's bits, made monotonic, above the id. */
    private fun key(logit: Float, id: Int): Long {
        val bits = (logit + 0f).toRawBits()
        val rising = if (bits < 0) bits.inv() xor Int.MIN_VALUE else bits
        return rising.inv().toLong() shl 32 or id.toLong()
    }

    private companion object {
        /** Sorted first; the rest of a large vocabulary only when top-p reaches beyond them. */
        const val CANDIDATES = 256
    }
}
