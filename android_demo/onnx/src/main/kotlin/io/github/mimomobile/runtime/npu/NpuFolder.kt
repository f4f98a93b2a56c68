package io.github.mimomobile.runtime.npu

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.files.FileFormat
import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.files.flag
import io.github.mimomobile.runtime.files.int
import io.github.mimomobile.runtime.files.ints
import io.github.mimomobile.runtime.files.text
import io.github.mimomobile.runtime.files.untrustedInput
import io.github.mimomobile.runtime.files.values
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * What `mimo quantize … --target qnn` (or `qdq`) compiled of a model for one chip: the layers in parts, the head and
 * the MTP layer, each for windows of so many tokens. Knows files, loads nothing.
 *
 * @property folder `qnn-SM8750`, beside the model.
 * @property soc The chip.
 * @property contextLength Tokens that the caches hold.
 * @property windows Tokens in one run, the largest first; a single one is for prompts, and the CPU computes tokens.
 * @property parts Runs of layers.
 * @property hasMtp Whether the MTP layer is there.
 */
internal class NpuFolder private constructor(
    val folder: File,
    val soc: String,
    val contextLength: Int,
    val windows: List<Int>,
    val parts: Int,
    val hasMtp: Boolean,
) {
    override fun toString(): String = folder.path

    /** Whether activations are integers, too. */
    val isQuantized: Boolean = folder.name.startsWith("qdq-")

    /** Looks rows of the embedding up, on the CPU. */
    val embedding: File = File(folder.parentFile, "embedding.onnx")

    /** Whether tokens are computed on the NPU, and not prompts alone. */
    val computesTokens: Boolean get() = windows.last() == 1

    /** Bytes of all binaries. */
    val weightBytes: Long get() = folder.listFiles().orEmpty().sumOf { it.length() }

    /** A piece's graph for a window: `layers-0`…, `head`, `mtp` or `draft_head`. */
    fun piece(name: String, window: Int): File = File(folder, "$name.$window.onnx")

    /**
     * Whether one binary, which has the first window's name, serves all [windows] of a piece with one copy of the weights.
     *
     * @throws MimoException.ModelLoad A binary is missing.
     */
    fun shares(name: String, windows: List<Int>): Boolean {
        val (there, missing) = windows.map { File(folder, "$name.${it}_qnn.bin") }.partition { it.isFile }
        if (there.isEmpty() || missing.isEmpty()) return false // graphs that were not compiled, in tests, have none
        if (there.size > 1) throw MimoException.ModelLoad("${missing[0]}: missing; compile again, or copy it")
        return true
    }

    /**
     * The tokens that the MTP layer scores: integers of 64 bits in
     * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.
     *
     * @throws MimoException.ModelLoad They cannot be read.
     */
    fun draftIds(): IntArray {
        val file = File(folder, "draft_ids.npy")
        val bytes = try {
            untrustedInput(file).use { it.readBytes() }
        } catch (error: IOException) {
            throw MimoException.ModelLoad("$file: cannot be read; compile again", error)
        }
        val start = if (bytes.size < 10) 0 else 10 + (bytes[8].toInt() and 0xFF) + ((bytes[9].toInt() and 0xFF) shl 8)
        val kind = if (start in 11..bytes.size) String(bytes, 10, start - 10, Charsets.ISO_8859_1) else ""
        if (!kind.contains("'<i8'") || bytes[0] != 0x93.toByte() || (bytes.size - start) % 8 != 0) {
            throw MimoException.ModelLoad("$file: no .npy of integers of 64 bits; compile again")
        }
        val values = ByteBuffer.wrap(bytes, start, bytes.size - start).order(ByteOrder.LITTLE_ENDIAN).asLongBuffer()
        return IntArray(values.remaining()) {
            values[it].takeIf { id -> id in 0..Int.MAX_VALUE }?.toInt()
                ?: throw MimoException.ModelLoad("$file: token ids expected, ${values[it]} found; compile again")
        }
    }

    companion object {
        private const val SETTINGS = "npu.json"
        private val FORMAT = FileFormat("npu", 1)
        private val PREFIXES = listOf("qnn-", "qdq-")

        /**
         * The binaries beside a model: those for [soc], else the only ones.
         *
         * @throws MimoException.ProviderUnavailable There are none, none for that chip, or several and none was named.
         * @throws MimoException.ModelLoad They do not say what they are.
         */
        fun find(model: File, soc: String?): NpuFolder {
            val folders = model.listFiles().orEmpty().filter { folder ->
                PREFIXES.any(folder.name::startsWith) && File(folder, SETTINGS).isFile
            }
            // Those with integers only where there are no others.
            val byChip = folders.sortedBy { it.name }.asReversed().groupBy { it.name.drop(4) }.mapValues { it.value[0] }
            val chips = byChip.keys.joinToString().ifEmpty { "none" }
            val again = "run `mimo quantize … --target qnn --soc ${soc ?: "SM8750"}`"
            val found = byChip.entries.firstOrNull { it.key.equals(soc, ignoreCase = true) }
                ?: byChip.entries.singleOrNull()?.takeIf { soc == null }
                ?: throw MimoException.ProviderUnavailable(
                    if (soc == null && byChip.size > 1) {
                        "$model: compiled for $chips; say which with EngineConfig.soc"
                    } else {
                        "$model: compiled for ${soc ?: "an NPU"} expected, for $chips found; $again"
                    },
                )
            return read(found.value)
        }

        private fun read(folder: File): NpuFolder = FORMAT.read(File(folder, SETTINGS), "compile again") { found ->
            val windows = found.ints("windows", least = 1).toList()
            val context = found.int("context_length", least = 1)
            val sorted = windows.distinct().sortedDescending()
            val falling = windows.isNotEmpty() && windows == sorted && windows[0] <= context
            if (!falling || windows.size > 1 && windows.last() != 1) {
                throw JsonException(
                    "windows: falling numbers from at most $context to 1, or a single one, expected, $windows found",
                )
            }
            val mtp = found.flag("mtp")
            if (mtp && windows.last() != 1) {
                throw JsonException("mtp: no MTP layer expected for prompts alone, with windows $windows")
            }
            val parts = found.values("layers").size
            if (parts == 0) throw JsonException("layers: none found")
            NpuFolder(folder, found.text("soc"), context, windows, parts, mtp)
        }
    }
}
