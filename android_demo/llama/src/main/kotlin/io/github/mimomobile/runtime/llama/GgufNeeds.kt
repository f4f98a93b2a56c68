package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Speculation
import java.io.File
import java.nio.file.Files
import java.nio.file.LinkOption
import java.util.Locale
import kotlin.math.sqrt

/**
 * A GGUF file as it is to be loaded: its parts, its KV cache, and what all of it takes of memory. The sums are those of the
 * Python library, which were fitted to what processes took; llama.cpp is not loaded for them.
 *
 * @property drafter The header of the file with the MTP layer; null when nothing drafts.
 * @param isArm Whether an ARM CPU computes.
 */
internal class GgufNeeds private constructor(
    val header: GgufHeader,
    val model: GgufModel,
    val drafter: GgufHeader?,
    val kvCache: KvCache,
    private val config: EngineConfig,
    isArm: Boolean,
) {
    private val trunk = GgufWeights.of(header, isArm)
    private val mtp = drafter?.takeIf { it !== header }?.let { GgufWeights.of(it, isArm) }

    /** What it takes, without its header. */
    val sums = GgufSums(model, trunk, mtp, drafter != null)

    /** Of all weights that are read. */
    val fileBytes: Long = trunk.bytes + (mtp?.bytes ?: 0)

    /** What a token takes in the trunk's KV cache. */
    val kvBytesPerToken: Long = sums.kvBytesPerToken(kvCache)

    /**
     * The context to load the model with.
     *
     * @throws MimoException.ModelLoad More was asked for than it was trained for.
     */
    fun contextLength(): Int {
        val asked = config.contextLength ?: return minOf(model.contextLength, DEFAULT_CONTEXT)
        if (asked > model.contextLength) {
            throw MimoException.ModelLoad(
                "${header.file}: contextLength $asked asked for, trained for ${model.contextLength}",
            )
        }
        return asked
    }

    /** The ways to load it, the preferred one first. */
    fun ways(contextLength: Int): List<MemoryNeed> {
        val repacks = config.repack?.let { listOf(it) } ?: listOf(true, false)
        val must = drafter == null || config.speculation == Speculation.MTP
        val drafting = if (must) listOf(drafter) else listOf(drafter, null)
        return repacks.flatMap { repack -> drafting.map { sums.need(contextLength, kvCache, repack, it != null) } }
    }

    /**
     * The first way that fits into the memory that [EngineConfig.availableBytes] tells.
     *
     * @throws MimoException.MemoryFull None does.
     */
    fun choose(contextLength: Int): MemoryNeed {
        val ways = ways(contextLength)
        val available = config.availableBytes() ?: return ways.first()
        config.info("${header.file.name}: memory: ${ways.joinToString(", or ")}; available ${gigabytes(available)}.")
        ways.firstOrNull { it.roomBytes <= available }?.let { return it }
        val least = ways.minBy { it.roomBytes }
        val advice = if (least.roomBytes - least.kvBytes < available) "take a shorter contextLength or" else "take"
        throw MimoException.MemoryFull(
            "${header.file}: ${gigabytes(least.roomBytes)} of memory needed ($least), ${gigabytes(available)} available;" +
                " $advice a smaller recipe, or close other apps",
        )
    }

    /**
     * Checks that a device has room for the model, whose drivers take their memory from the phone's: [given] of [layers] layers
     * are copied for it, and copies need a tenth more room, as on the CPU.
     *
     * @param need What was chosen for the CPU.
     * @throws MimoException.MemoryFull It has not.
     */
    fun checkDevice(need: MemoryNeed, given: Int, layers: Int) {
        val available = config.availableBytes() ?: return
        val copied = (need.copiedBytes + need.mappedBytes) * given / layers
        val room = need.totalBytes + maxOf(copied, need.copiedBytes) / 10
        if (room <= available) return
        throw MimoException.MemoryFull(
            "${header.file}: ${gigabytes(room)} of memory needed with $given of $layers layers on ${config.provider}," +
                " ${gigabytes(available)} available; take the CPU, a shorter contextLength or a smaller recipe, or close" +
                " other apps",
        )
    }

    companion object {
        /** Tokens; a KV cache for all that MiMo-7B was trained for would take 4.8 GB. */
        private const val DEFAULT_CONTEXT = 4096

        /** Below it float16 rounds a score, q·k after scaling, by at most 1/16, which changes its weight by 6 %. */
        private const val MOST_SCORE = 256.0

        /**
         * What a file and its settings come to.
         *
         * @throws MimoException.ModelLoad The file is no MiMo-7B, is damaged, or has no MTP layer and one is asked for.
         */
        fun of(file: File, config: EngineConfig, isArm: Boolean = isArmHere()): GgufNeeds {
            val header = GgufHeader(file)
            val model = checked(header)
            if (!model.hasTrunk) {
                throw MimoException.ModelLoad("$file: holds an MTP layer only; load the trunk beside it (the name without -mtp)")
            }
            return GgufNeeds(header, model, drafter(header, model, config.speculation), kvCache(file, model, config), config, isArm)
        }

        /** The header of the file with the MTP layer, which is the model's own or one beside it; null when none drafts. */
        private fun drafter(header: GgufHeader, model: GgufModel, speculation: Speculation): GgufHeader? {
            if (speculation != Speculation.AUTO && speculation != Speculation.MTP) return null
            if (model.mtpLayers > 0) return header
            val beside = header.file.run { File(parentFile, "$nameWithoutExtension-mtp.gguf") }
            if (Files.exists(beside.toPath(), LinkOption.NOFOLLOW_LINKS)) {
                val other = GgufHeader(beside)
                val found = other.value("general.architecture")
                if (found != GgufRules.MTP) {
                    throw MimoException.ModelLoad(
                        "$beside: architecture ${shown("$found")} found, ${GgufRules.MTP} expected of the MTP layer of" +
                            " ${header.file.name}; move the file away, or take Speculation.OFF or NGRAM",
                    )
                }
                checkPair(header, model, other, checked(other))
                return other
            }
            if (speculation == Speculation.AUTO) return null
            throw MimoException.ModelLoad("$beside: no MTP layer there; quantize again, or take Speculation.AUTO or NGRAM")
        }

        /**
         * As asked; else float16, or float32 where the file says that float16 is too coarse: ARM CPUs sum q·k in float16
         * when the cache is float16.
         */
        private fun kvCache(file: File, model: GgufModel, config: EngineConfig): KvCache {
            val asked = config.kvCache
            val largest = model.largestQueryKey
            if (largest == null || largest <= MOST_SCORE * sqrt(model.headDim.toDouble())) return asked ?: KvCache.FLOAT16
            val found = "$file: q·k up to %,.0f was measured when it was written".format(Locale.ROOT, largest)
            if (asked == null) {
                config.warn(
                    "$found, too large for float16: attention computes in float32, and the KV cache takes twice the memory.",
                )
            } else if (asked != KvCache.FLOAT32) {
                config.warn("$found, too large for KvCache.$asked; take FLOAT32, or leave kvCache out.")
            }
            return asked ?: KvCache.FLOAT32
        }

        private fun isArmHere() = System.getProperty("os.arch") in setOf("aarch64", "arm64")
    }
}
