package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.files.JsonReader
import java.io.File
import java.io.IOException
import java.util.Locale
import kotlin.math.abs

/**
 * Whether a backend computes what it should on this device: drivers have bugs.
 *
 * A known prompt goes through it as a chunk, two rows and one, as prompts, verified drafts and tokens do; the logits
 * after it are compared with those in the model's reference.json, which the CPU computed when it was written.
 *
 * @param difference Of logits, over the largest; null when there was nothing to compare with.
 */
internal class SelfTest private constructor(private val difference: Double?, private val tolerance: Double) {
    /** Why its numbers must not be trusted; null when they may. */
    val problem: String? get() = when {
        difference == null -> null
        difference <= tolerance -> null
        else -> "wrong numbers on this device: logits differ by ${percent(difference)} of the largest" +
            " (${percent(tolerance)} allowed)"
    }

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
            val known = try {
                reference.inputStream().use { JsonReader(it).readValue() } as Map<*, *>
            } catch (error: IOException) {
                throw damaged(reference, error)
            } catch (error: JsonException) {
                throw damaged(reference, error)
            } catch (error: ClassCastException) {
                throw damaged(reference, error)
            }
            fun numbers(name: String) = (known[name] as? List<*>)?.map { it as? Double ?: throw damaged(reference) }
                ?: throw damaged(reference)
            val ids = numbers("ids").map { it.toInt() }.toIntArray()
            val expected = numbers("logits")
            val tops = numbers("top_ids").map { it.toInt() }
            if (ids.size < 4 || tops.size != expected.size || expected.isEmpty()) throw damaged(reference)
            if (ids.size > backend.contextLength) return SelfTest(null, tolerance)
            val start = ids.size - 3
            backend.decode(ids.copyOf(start), 0)
            backend.decode(ids.copyOfRange(start, start + 2), start, 2)
            val found = backend.decode(ids.copyOfRange(start + 2, ids.size), start + 2).single()
            backend.mtp?.resume(0)
            if (tops.any { it !in found.indices }) throw damaged(reference)
            val largest = expected.maxOf { abs(it) }
            val difference = expected.indices.maxOf { abs(found[tops[it]] - expected[it]) } / largest
            return SelfTest(if (difference.isFinite()) difference else Double.MAX_VALUE, tolerance)
        }

        private fun damaged(file: File, cause: Exception? = null) =
            MimoException.ModelLoad("$file: not what mimo writes; quantize again", cause)

        private fun percent(share: Double) = "%.1f %%".format(Locale.ROOT, 100 * minOf(share, 99.0))
    }
}
