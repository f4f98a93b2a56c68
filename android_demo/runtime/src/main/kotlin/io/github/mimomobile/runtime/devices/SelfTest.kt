package io.github.mimomobile.runtime.devices

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.files.FileFormat
import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.files.doubles
import io.github.mimomobile.runtime.files.ints
import java.io.File
import java.util.Locale
import kotlin.math.abs

/**
 * Whether a backend computes what it should on this device: drivers have bugs.
 *
 * A known prompt goes through it as a chunk, two rows and one, as prompts, verified drafts and tokens do; the logits
 * after it are compared with those in the model's reference.json or GGUF file, which the CPU computed when it was written.
 *
 * @property difference Of logits, over the largest; null when there was nothing to compare with.
 * @property tolerance The largest difference that is right.
 */
internal class SelfTest(val difference: Double?, val tolerance: Double) {
    /** Why its numbers must not be trusted; null when they may. */
    val problem: String? get() =
        if (difference == null || difference <= tolerance) null else "wrong numbers on this device: $this"

    override fun toString(): String =
        if (difference == null) "nothing to compare with: no reference, or a context shorter than its prompt" else
            "logits differ by ${percent(difference)} of the largest (${percent(tolerance)} allowed)"

    /** Whether numbers were compared. */
    val tested: Boolean get() = difference != null

    companion object {
        /**
         * As in the Python library. Kernels with float16 and those with int8 activations differ by 1 to 2 % of the
         * largest logit, MiMo-nano with quantized activations by 9 %; wrong kernels by all of it.
         */
        const val TOLERANCE: Double = 0.08
        const val TOLERANCE_QUANTIZED: Double = 0.2

        /**
         * Tests a backend, whose KV cache is lost by it.
         *
         * @throws MimoException.Inference It cannot compute.
         * @throws MimoException.ModelLoad The reference is damaged.
         */
        fun run(backend: Backend, reference: File, tolerance: Double): SelfTest {
            if (!reference.isFile) return SelfTest(null, tolerance)
            return run(backend, Reference.read(reference), "$reference", tolerance)
        }

        /** The same with a reference that [origin] holds; null where it holds none. */
        fun run(backend: Backend, known: Reference?, origin: String, tolerance: Double): SelfTest {
            val ids = known?.ids
            if (ids == null || ids.size > backend.contextLength) return SelfTest(null, tolerance)
            val start = ids.size - 3
            backend.decode(ids.copyOf(start), 0)
            backend.decode(ids.copyOfRange(start, start + 2), start, 2)
            val found = backend.decode(ids.copyOfRange(start + 2, ids.size), start + 2).single()
            backend.mtp?.resume(0)
            known.topIds.maxOrNull()?.takeIf { it >= found.size }?.let {
                throw MimoException.ModelLoad("$origin: token $it found, the model has ${found.size}; quantize again")
            }
            val largest = known.logits.maxOf { abs(it) }
            val difference = known.logits.indices.maxOf { abs(found[known.topIds[it]] - known.logits[it]) } / largest
            return SelfTest(if (difference.isFinite()) difference else Double.MAX_VALUE, tolerance)
        }

        private fun percent(share: Double) = "%.1f %%".format(Locale.ROOT, 100 * minOf(share, 99.0))
    }
}

/**
 * What a model computes for a known prompt: its reference.json, or what its GGUF file says.
 *
 * @property ids A prompt.
 * @property topIds The tokens with the largest logits after it.
 * @property logits Their logits, as the CPU computed them.
 */
internal class Reference(val ids: IntArray, val topIds: IntArray, val logits: DoubleArray) {
    /** @throws JsonException It can be no model's. */
    fun checked(): Reference {
        if (ids.size < LEAST_TOKENS) throw JsonException("ids: at least $LEAST_TOKENS expected")
        if (logits.isEmpty() || topIds.size != logits.size) {
            throw JsonException("${topIds.size} top_ids and ${logits.size} logits found")
        }
        return this
    }

    companion object {
        private val FORMAT = FileFormat("reference", 1)

        /** For a chunk, two rows and one. */
        private const val LEAST_TOKENS = 4

        /** @throws MimoException.ModelLoad The file is damaged. */
        fun read(file: File): Reference = FORMAT.read(file, "quantize again") { found ->
            Reference(found.ints("ids"), found.ints("top_ids"), found.doubles("logits")).checked()
        }
    }
}
