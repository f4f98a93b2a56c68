package io.github.mimomobile.runtime.devices

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.NpuMode
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.files.FileFormat
import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.files.number
import io.github.mimomobile.runtime.files.text
import java.io.File
import java.io.IOException
import java.util.Locale

/**
 * How much time one backend takes, in seconds.
 *
 * @property promptS A prompt of [PROMPT_TOKENS].
 * @property tokenS One token after the prompt.
 */
internal data class Speed(val promptS: Double, val tokenS: Double) {
    companion object {
        /** As in the Python library. */
        const val PROMPT_TOKENS: Int = 64
        private const val REPEATS = 3

        /** The speed of a backend, whose KV cache is lost by it. */
        fun of(backend: Backend): Speed {
            val prompt = IntArray(minOf(PROMPT_TOKENS, backend.contextLength - 2)) { it }
            val times = List(REPEATS) {
                val started = System.nanoTime()
                backend.decode(prompt, 0)
                val between = System.nanoTime()
                backend.decode(IntArray(1), prompt.size)
                Speed((between - started) / 1e9, (System.nanoTime() - between) / 1e9)
            }
            backend.mtp?.resume(0)
            return Speed(times.minOf { it.promptS }, times.minOf { it.tokenS })
        }
    }
}

/** What a self-test found, and how fast an NPU is beside the CPU. */
internal class Verdict(val test: SelfTest, val npu: Speed, val cpu: Speed) {
    /** What is fastest for an NPU that computes tokens, too, or prompts alone; null is the CPU. */
    fun fastest(computesTokens: Boolean): NpuMode? = when {
        computesTokens && npu.tokenS < cpu.tokenS -> NpuMode.NPU
        npu.promptS < cpu.promptS -> NpuMode.SPLIT
        else -> null
    }

    /** The same in words. */
    fun told(computesTokens: Boolean): String {
        val place = when (fastest(computesTokens)) {
            NpuMode.NPU -> "all on the NPU"
            NpuMode.SPLIT -> "prompts on the NPU, tokens on the CPU"
            null -> "all on the CPU"
        }
        return "a prompt of %d tokens takes %.3f s (CPU %.3f s), a token %.4f s (CPU %.4f s): %s".format(
            Locale.ROOT, Speed.PROMPT_TOKENS, npu.promptS, cpu.promptS, npu.tokenS, cpu.tokenS, place,
        )
    }
}

/** The verdict in a file, in the format of the Python library's `selftest/….json`. */
internal class KeptVerdict(private val file: File) {
    /** The verdict; null when there is none that can be read. */
    fun recall(): Verdict? = if (!file.isFile) null else {
        try {
            read()
        } catch (_: MimoException.ModelLoad) { // it is measured once more
            null
        }
    }

    /** @throws MimoException.ModelLoad It is damaged, or a newer version's. */
    fun read(): Verdict = FORMAT.read(file, "it is measured anew") { found ->
        val test = SelfTest(found.number("difference", 0.0), found.number("tolerance", 0.0))
        val error = found.text("error")
        if (error.isNotEmpty() || test.problem != null) throw JsonException("right numbers expected, $error found")
        Verdict(test, found.speed("speed"), found.speed("cpu"))
    }

    /** Remembers a verdict of which numbers were compared. */
    fun keep(verdict: Verdict) {
        val difference = verdict.test.difference ?: return
        val text = """{"selftest_version": 1, "difference": $difference, "error": "", "tolerance": ${verdict.test.tolerance},
 "speed": ${json(verdict.npu)}, "cpu": ${json(verdict.cpu)}}
"""
        try {
            file.parentFile?.mkdirs()
            val partial = File("$file.partial")
            partial.writeText(text)
            partial.renameTo(file)
        } catch (_: IOException) { // it will be measured once more
        }
    }

    private fun json(speed: Speed) = """{"prompt_s": ${speed.promptS}, "token_s": ${speed.tokenS}}"""

    private fun Map<*, *>.speed(name: String): Speed {
        val found = this[name] as? Map<*, *> ?: throw JsonException("$name: an object expected, ${this[name]} found")
        return Speed(found.number("prompt_s", 0.0), found.number("token_s", 0.0))
    }

    private companion object {
        val FORMAT = FileFormat("selftest", 1)
    }
}
