package io.github.mimomobile.runtime.llama

import com.sun.jna.NativeLibrary
import com.sun.jna.Structure
import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.EngineState
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.FinishReason
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.LogLevel
import io.github.mimomobile.runtime.Logger
import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.Prompt
import io.github.mimomobile.runtime.Role
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.checkSharedConversation
import io.github.mimomobile.runtime.nano
import java.io.File
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.junit.experimental.categories.Category

/** The engine as an app sees it, on MiMo-nano in GGUF. What does not depend on llama.cpp is tested in :onnx. */
class GgufEngineTest {
    private val engine = MimoEngine()
    private val greedy = GenerationConfig { temperature = 0.0; maxTokens = 300 }
    private val question = Prompt.Chat(listOf(Message(Role.USER, "What is 25 + 17 * 3?")))
    private val long = Prompt.Chat(listOf(Message(Role.USER, "7 + ".repeat(460))))
    private val messages = mutableListOf<String>()
    private val config = EngineConfig {
        recipe = "q4_0"; threads = 1; speculation = Speculation.OFF
        logger = Logger { level, message -> if (level == LogLevel.WARNING) messages += message }
    }
    private val file = File(nano, "mimo-nano-q4_0.gguf")

    @Before
    fun find() = Libllama.use()

    @After
    fun close() = engine.close()

    private fun <T> within(work: suspend CoroutineScope.() -> T): T = runBlocking { withTimeout(60_000) { work() } }

    private suspend fun MimoEngine.info(model: File, config: EngineConfig): ModelInfo {
        load(model, config)
        return (state.value as EngineState.Ready).model
    }

    private suspend fun MimoEngine.answer() =
        generate(question, greedy).toList().filterIsInstance<GenerationEvent.Token>()
            .filter { it.channel == Channel.ANSWER }.joinToString("") { it.text }

    private inline fun <reified T : Exception> failure(noinline work: suspend () -> Unit): T =
        assertThrows(T::class.java) { within { work() } }

    /** What malloc has given and not got back, and what is resident of files, in bytes: the Java heap is not in it. */
    private fun taken(): Pair<Long, Long> {
        val given = NativeLibrary.getInstance("c").getFunction("mallinfo2").invoke(Allocated::class.java, emptyArray<Any>()) as Allocated
        val files = File("/proc/self/status").readLines().first { it.startsWith("RssFile:") }
        return Pair(given.sizes[MMAPPED] + given.sizes[IN_USE], 1024 * files.filter(Char::isDigit).toLong())
    }

    /** glibc's struct mallinfo2. */
    internal class Allocated : Structure(), Structure.ByValue {
        @JvmField var sizes: LongArray = LongArray(10)

        override fun getFieldOrder() = listOf("sizes")
    }

    @Test
    fun `a recipe of a folder is loaded and answers`() = within {
        val info = engine.info(nano, config.copy { speculation = Speculation.AUTO })
        assertEquals(listOf("mimo-nano", "q4_0", 2048, 1), listOf(info.name, info.recipe, info.contextLength, info.threads))
        assertTrue("${info.weightBytes}", info.weightBytes in file.length()..file.length() + 1_100_000)
        assertEquals(2L * (4 + 1) * 2 * 64 * 2 * 2048, info.kvCacheBytes)
        assertTrue(info.draftsWithMtp && info.hasChatTemplate && !info.synthetic && info.placement.isEmpty())
        assertEquals("76", engine.answer())
    }

    @Test
    fun `a file alone answers, with the MTP layer that lies beside it, and every kind of KV cache does`() = within {
        for (kind in KvCache.entries) {
            val info = engine.info(file, config.copy { recipe = null; kvCache = kind; speculation = Speculation.MTP })
            assertEquals("q4_0", info.recipe)
            assertTrue(info.draftsWithMtp)
            assertEquals("76", engine.answer())
        }
    }

    @Test
    fun `weights are copied or mapped as asked for, or by what memory is there`() = within {
        fun wish(bytes: Long?, repack: Boolean? = null) = config.copy { availableBytes = { bytes }; this.repack = repack }
        val copied = engine.info(nano, wish(null)).mappedBytes
        val mapped = engine.info(nano, wish(null, repack = false)).mappedBytes
        assertTrue("$copied, $mapped", copied < mapped && mapped <= file.length())
        assertEquals("76", engine.answer())
        val (first, second) = GgufNeeds.of(file, config).ways(2048)
        assertEquals(first.totalBytes, second.totalBytes)
        assertEquals(copied, engine.info(nano, wish(first.totalBytes + first.copiedBytes / 10)).mappedBytes)
        assertEquals(mapped, engine.info(nano, wish(first.totalBytes)).mappedBytes)
    }

    @Test
    fun `what does not fit in memory is not loaded, and what is needed is told`() {
        val error = failure<MimoException.MemoryFull> { engine.load(nano, config.copy { availableBytes = { 20_000_000 } }) }
        assertTrue(error.message, "0.05 GB of memory needed (" in error.message!! && "0.02 GB available" in error.message!!)
    }

    @Test
    fun `a longer context than the model was trained for, and no MTP layer, are told`() {
        val context = failure<MimoException.ModelLoad> { engine.load(nano, config.copy { contextLength = 4096 }) }
        assertTrue(context.message, "contextLength 4096 asked for, trained for 2048" in context.message!!)
        val alone = File.createTempFile("alone", ".gguf").apply { writeBytes(file.readBytes()) }
        try {
            val wish = config.copy { recipe = null; speculation = Speculation.MTP }
            val mtp = failure<MimoException.ModelLoad> { engine.load(alone, wish) }
            assertTrue(mtp.message, "no MTP layer there" in mtp.message!!)
            within { assertEquals(false, engine.info(alone, wish.copy { speculation = Speculation.AUTO }).draftsWithMtp) }
        } finally {
            alone.delete()
        }
    }

    @Test
    fun `a device that is not here is an error, or a fallback that is told`() = within {
        val wish = config.copy { provider = ExecutionProvider.OPENCL }
        val error = failure<MimoException.ProviderUnavailable> { engine.load(nano, wish) }
        assertTrue(error.message, "OPENCL cannot run it on this device" in error.message!!)
        val info = engine.info(nano, wish.copy { strict = false })
        assertEquals(ExecutionProvider.CPU, info.provider)
        assertTrue(info.fallback, "llama.cpp finds no such device" in info.fallback!!)
        assertTrue("$messages", messages.single().contains("the CPU computes instead of OPENCL"))
    }

    @Test
    fun `a missing native library is explained`() {
        val told = GgufFormat().explain(file, UnsatisfiedLinkError("libllama.so: not found"))
        assertTrue(told!!.message, "llama.cpp's native libraries cannot be loaded on this device" in told.message!!)
        assertEquals(null, GgufFormat().explain(file, IllegalStateException()))
    }

    @Test
    fun `a prompt is cut off in its middle, and what was computed of it is not computed again`() = within {
        engine.load(nano, config)
        val job = launch(Dispatchers.Default) { engine.generate(long, greedy).collect() }
        engine.state.first { it is EngineState.Generating }
        delay(60)
        job.cancelAndJoin()
        engine.state.first { it is EngineState.Ready }
        val stats = (engine.generate(long, greedy.copy { maxTokens = 1 }).toList().last() as GenerationEvent.Finished).stats
        assertTrue("$stats", stats.cachedTokens < stats.promptTokens - 1)
        assertEquals("76", engine.answer())
    }

    @Test
    fun `stopping ends the flow with its statistics`() = within {
        engine.load(nano, config)
        val events = engine.generate(question, greedy).onEach { engine.stop() }.toList()
        assertEquals(FinishReason.CANCELLED, (events.last() as GenerationEvent.Finished).reason)
        assertEquals("76", engine.answer())
    }

    @Test
    fun `closing ends a generation, also within a prompt`() {
        val error = failure<MimoException.WrongState> {
            engine.load(nano, config)
            within {
                val flow = async(Dispatchers.Default) { engine.generate(long, greedy).toList() }
                engine.state.first { it is EngineState.Generating }
                engine.close()
                flow.await()
            }
        }
        assertEquals("the engine is closed", error.message)
    }

    @Test
    fun `what Python saved goes on here, without being computed again`() = checkSharedConversation("q4_0")

    @Test
    fun `two engines answer at once`() = within {
        MimoEngine().use { other ->
            engine.load(nano, config)
            other.load(nano, config.copy { speculation = Speculation.MTP })
            val answers = List(2) { index ->
                async(Dispatchers.Default) { List(3) { (if (index == 0) engine else other).answer() } }
            }
            assertEquals(List(6) { "76" }, answers.flatMap { it.await() })
        }
    }

    @Category(Sweep::class)
    @Test
    fun `loading and answering again and again takes no more memory`() = within {
        val wish = config.copy { speculation = Speculation.MTP }
        suspend fun once() {
            engine.load(nano, wish)
            assertEquals("76", engine.answer())
            engine.unload()
        }
        repeat(4) { once() }
        // Twice, since Java's own compiler takes memory at some time; a leak would take it each time.
        val grown = List(2) {
            val before = taken()
            repeat(10) { once() }
            val after = taken()
            Pair(after.first - before.first, after.second - before.second)
        }
        // A model of each load would be 500 MB by now, of them 30 mapped, and the KV cache of each 50.
        assertTrue("$grown bytes", grown.minOf { it.first } < 8_000_000 && grown.minOf { it.second } < 8_000_000)
    }

    private companion object {
        const val MMAPPED = 4
        const val IN_USE = 7
    }
}
