package io.github.mimomobile.runtime.llama

import com.sun.jna.Memory
import com.sun.jna.Pointer
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.decode.ArrayType
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.decode.wrongState

/**
 * One context of llama.cpp with its batch: ids in, rows of logits and hidden states out. The trunk and the MTP layer are
 * both such contexts.
 *
 * @param readsHidden Whether rows have a hidden state, too, as those of the MTP layer.
 * @throws LlamaRefused llama.cpp makes none; its log holds the reason.
 */
internal class LlamaContext(
    private val api: LlamaApi,
    model: Pointer,
    params: LlamaContextParams.ByValue,
    readsHidden: Boolean = false,
) : AutoCloseable {
    private val context = api.llama_init_from_model(model, params) ?: throw LlamaRefused()
    private val kvCache = checkNotNull(api.llama_get_memory(context))
    private val size = params.n_batch
    private val token = Memory(Int.SIZE_BYTES.toLong() * size)
    private val pos = Memory(Int.SIZE_BYTES.toLong() * size)
    private val wanted = Memory(size.toLong())
    private val batch = LlamaBatch.ByValue()

    /** How many tokens get logits. */
    val vocabSize: Int = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    /** Floats in a hidden state. */
    val hiddenSize: Int = api.llama_model_n_embd(model)
    private val read = if (readsHidden) Memory(Float.SIZE_BYTES.toLong() * size * hiddenSize) else null

    init {
        batch.token = token
        batch.embd = read
        batch.pos = pos // all rows are of sequence 0, which is what null stands for
        batch.logits = wanted
    }

    /** Chooses whether runs give the hidden states of all rows, or only the logits of the rows that are asked for. */
    fun giveHidden(wanted: Boolean) = api.llama_set_embeddings(context, wanted.c)

    /** Drops the KV cache from [position] on. */
    fun forget(position: Int) {
        api.llama_memory_seq_rm(kvCache, 0, position, -1)
    }

    /** Drops the whole KV cache, and what its memory holds. */
    fun wipe() = api.llama_memory_clear(kvCache, true.c)

    /**
     * Computes [count] of [ids], from [start] on, at [position]; the last [rows] of them get logits.
     *
     * @param hidden Hidden states beside the ids, from row [start] on; only where the context reads them.
     * @return 0 when all went well, [ABORTED] when the flag was raised, else an error.
     */
    fun run(ids: IntArray, start: Int, count: Int, position: Int, rows: Int, hidden: FloatArray? = null): Int {
        token.write(0, ids, start, count)
        pos.write(0, IntArray(count) { position + it }, 0, count)
        wanted.write(0, ByteArray(count) { (it >= count - rows).c }, 0, count)
        if (hidden != null) checkNotNull(read).write(0, hidden, start * hiddenSize, count * hiddenSize)
        batch.n_tokens = count
        return api.llama_decode(context, batch)
    }

    /** Copies the last run's logits of row [row], of those that were asked for or of all with hidden states. */
    fun logits(row: Int, target: FloatArray) {
        val at = checkNotNull(api.llama_get_logits(context)) { "the last run gave no logits" }
        at.read(Float.SIZE_BYTES.toLong() * row * vocabSize, target, 0, target.size)
    }

    /** Copies the last run's hidden states of the first [rows] after the trunk's last norm. */
    fun hidden(rows: Int, target: FloatArray) {
        val at = checkNotNull(api.llama_get_embeddings(context)) { "the last run gave no hidden states" }
        at.read(0, target, 0, rows * hiddenSize)
    }

    /** A copy of the KV cache as llama.cpp keeps it, in native memory while its parts are read. */
    fun stateArray(name: String): StateArray {
        val size = api.llama_state_seq_get_size(context, 0)
        return StateArray(name, ArrayType.U8, listOf(size), sequence {
            allocated(size).use { memory ->
                val taken = api.llama_state_seq_get_data(context, memory, size, 0)
                check(taken == size) { "llama.cpp gave $taken bytes of a state, $size expected" }
                for (start in 0 until size step PART_BYTES) yield(memory.getByteBuffer(start, minOf(PART_BYTES, size - start)))
            }
        })
    }

    /**
     * Puts the array [name] of a state back, once its positions are those of [tokens] tokens: llama.cpp ends the process at
     * others. With [gaps] some may be missing.
     *
     * @param arrange What of the copy is given to llama.cpp; null when that is not to be had.
     * @throws MimoException.ConversationFile It is another model's; the KV cache is empty then.
     */
    fun restore(
        arrays: List<StateArray>,
        name: String,
        tokens: Int,
        gaps: Boolean,
        arrange: (Memory, StateCheck) -> Memory? = { copy, _ -> copy },
    ) {
        val array = arrays.firstOrNull { it.name == name && it.type == ArrayType.U8 && it.shape.size == 1 && it.size > 0 }
            ?: wrongState("llama.cpp's $name is missing")
        forget(0)
        allocated(array.size).use { copy ->
            var place = 0L
            for (part in array.parts) {
                val count = part.remaining().toLong()
                copy.getByteBuffer(place, count).put(part.duplicate())
                place += count
            }
            val check = StateCheck(copy)
            if (!check.hasPositions(tokens, gaps)) wrongState("llama.cpp's $name is not of $tokens tokens")
            val given = arrange(copy, check) ?: wrongState("llama.cpp's $name has other layers")
            if (given !== copy) copy.close()
            val taken = given.use { api.llama_state_seq_set_data(context, given, given.size(), 0) }
            if (taken == given.size()) return
        }
        forget(0)
        wrongState("llama.cpp refuses its $name: ${LlamaLibrary.log.text()}")
    }

    private fun allocated(size: Long): Memory = try {
        Memory(size)
    } catch (error: OutOfMemoryError) {
        throw MimoException.MemoryFull("a copy of the KV cache takes $size bytes, and no memory is left for it", error)
    }

    override fun close() = api.llama_free(context)

    companion object {
        private const val PART_BYTES = 1L shl 30

        /** What llama_decode returns after the abort callback stopped it. */
        const val ABORTED: Int = 2
    }
}

/** llama.cpp returned nothing; [LlamaLibrary.log] holds the reason. */
internal class LlamaRefused : Exception()
