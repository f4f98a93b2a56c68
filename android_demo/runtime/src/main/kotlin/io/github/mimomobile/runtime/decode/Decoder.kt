package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.FinishReason
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.GenerationStats
import io.github.mimomobile.runtime.Heat
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Notice
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.text.IntList

/**
 * Drives a backend: prompts in, events out. It knows what the KV cache holds, so no token is computed twice.
 *
 * What runs cost is measured when it is made, so that the first answer does not wait for it.
 *
 * @param name Which model computes on what, for errors.
 * @property costs What runs cost when nothing else was under way; null where nothing drafts.
 * @throws MimoException.Inference The backend failed.
 */
internal class Decoder(
    private val backend: Backend,
    private val name: String,
    speculation: Speculation,
    private val cooling: Cooling = Cooling({ Heat.NONE }),
    val costs: Costs? = Costs.measure(backend, speculation),
) {
    private val cached = IntList()

    private val speculator = costs?.let { Speculator(speculation, backend.mtp, it) }

    /**
     * Generates what follows [ids] and gives its events to [emit], the last one [GenerationEvent.Finished].
     *
     * @throws MimoException.ContextFull The prompt alone fills the context.
     * @throws MimoException.Numerics The model gave NaN or infinity.
     * @throws MimoException.Inference The backend failed.
     */
    suspend fun run(ids: IntArray, generation: Generation, emit: suspend (GenerationEvent) -> Unit) {
        checkLength(ids)
        val started = System.nanoTime()
        var firstS = 0.0
        var reused = 0
        var drafted = 0
        var accepted = 0
        var restedS = 0.0
        var reason: FinishReason? = null
        var drafts = false
        try {
            val speculator = speculator?.takeIf { generation.config.speculate }?.also { it.begin(ids) }
            reused = commonPrefix(ids).let { backend.mtp?.resume(it) ?: it }
            var pending = ids.copyOfRange(reused, ids.size)
            var position = reused
            var draft = Draft.NONE
            while (reason == null) {
                cached.truncate(position)
                val rows = draft.ids.size + 1
                val begun = System.nanoTime()
                val logits = compute(pending + draft.ids, position, rows)
                val worked = System.nanoTime() - begun
                val isStep = pending.size == 1
                cached.addAll(pending)
                position += pending.size
                var right = 0
                for (row in 0 until rows) {
                    val token = generation.next(logits[row])
                    if (firstS == 0.0) firstS = secondsSince(started)
                    if (token == Generation.END) {
                        reason = FinishReason.STOP
                        break
                    }
                    generation.accept(token).forEach { emit(it) }
                    reason = when {
                        generation.stopped -> FinishReason.STOP
                        generation.count >= generation.mostTokens -> FinishReason.LENGTH
                        position + 1 >= backend.contextLength -> FinishReason.LENGTH
                        else -> null
                    }
                    pending = intArrayOf(token)
                    speculator?.follow(token)
                    if (reason != null || row == rows - 1 || token != draft.ids[row]) break
                    cached.add(token)
                    position++
                    right++
                }
                drafted += draft.ids.size
                accepted += right
                if (isStep && reason == null) speculator?.learn(draft, right, worked / 1e9)
                draft = Draft.NONE
                val drafting = System.nanoTime()
                val room = minOf(generation.mostTokens - generation.count, backend.contextLength - position - 1)
                if (reason == null && room > 1 && speculator != null) {
                    drafts = true
                    draft = speculator.propose(generation, position, pending[0], room - 1)
                    drafts = false
                }
                if (reason == null) restedS += cooling.rest(worked + System.nanoTime() - drafting)
            }
        } catch (_: Cancelled) {
            reason = FinishReason.CANCELLED
        } catch (_: NotFinite) {
            cached.truncate(0) // the KV cache holds such numbers now
            backend.forget()
            throw numerics(generation.count + 1, drafts)
        }
        generation.end().forEach { emit(it) }
        // A stop string may have been in what was held back.
        if (generation.stopped && reason == FinishReason.LENGTH) reason = FinishReason.STOP
        val full = reason == FinishReason.LENGTH && generation.count != generation.config.maxTokens
        val decodeS = secondsSince(started) - firstS
        val stats = GenerationStats(
            promptTokens = ids.size,
            cachedTokens = reused,
            generatedTokens = generation.count,
            draftedTokens = drafted,
            acceptedTokens = accepted,
            prefillTps = if (firstS > 0) (ids.size - reused) / firstS else 0.0,
            decodeTps = if (generation.count > 1) (generation.count - 1) / decodeS else 0.0,
            timeToFirstTokenS = firstS,
            restedS = restedS,
        )
        emit(GenerationEvent.Finished(checkNotNull(reason), stats, if (full) Notice.CONTEXT_FULL else null))
    }

    /** The ids of the prompt [ids] that the KV cache holds, its beginning, and their keys and values; forgets the rest. */
    fun kept(ids: IntArray): Pair<IntArray, List<StateArray>> {
        val most = minOf(cached.size, ids.size)
        cached.truncate((0 until most).firstOrNull { cached[it] != ids[it] } ?: most)
        return Pair(cached.toIntArray(), if (cached.size > 0) backend.state(cached.size) else emptyList())
    }

    /**
     * Goes on from a copy of the keys and values of [ids].
     *
     * @throws MimoException.ConversationFile It is another model's.
     */
    fun adopt(ids: IntArray, arrays: List<StateArray>) {
        cached.truncate(0)
        backend.mtp?.resume(0)
        try {
            backend.restore(arrays, ids.size)
        } catch (error: Throwable) {
            backend.forget() // a stranger's numbers may have come as far as the caches
            throw error
        }
        cached.addAll(ids)
    }

    /** Ends a running generation within a token; called from any thread. */
    fun cancel() {
        backend.cancel()
        cooling.wake()
    }

    /** Makes generations possible again after [cancel]. */
    fun renew() {
        backend.renew()
        cooling.begin()
    }

    /** One run; what it had computed when it was cut off stays for the next turn. */
    private fun compute(ids: IntArray, position: Int, rows: Int): List<FloatArray> = try {
        backend.decode(ids, position, rows)
    } catch (cut: Cancelled) {
        cached.addAll(ids.copyOf(cut.computed))
        throw cut
    }

    /** How many of [ids] are in the cache; at least one is left to compute. */
    private fun commonPrefix(ids: IntArray): Int {
        val most = minOf(cached.size, ids.size - 1)
        return (0 until most).firstOrNull { cached[it] != ids[it] } ?: most
    }

    private fun checkLength(ids: IntArray) {
        if (ids.isEmpty()) throw IllegalArgumentException("the prompt is empty; at least one token is needed")
        if (ids.size + 1 > backend.contextLength) {
            throw MimoException.ContextFull(
                "the prompt has ${ids.size} tokens, the context holds ${backend.contextLength} with the answer;" +
                    " shorten it, or load with a larger contextLength",
            )
        }
    }

    private fun numerics(token: Int, drafts: Boolean) = MimoException.Numerics(
        "$name gave NaN or infinity for ${if (drafts) "a draft of " else ""}token $token of the answer: a file is" +
            " damaged, or numbers are too large for float16; load it with Verification.SHA256, and if that finds" +
            " nothing with ${if (drafts) "Speculation.OFF" else "KvCache.INT8, ExecutionProvider.CPU or another recipe"}",
    )

    private fun secondsSince(started: Long): Double = (System.nanoTime() - started) / 1e9
}
