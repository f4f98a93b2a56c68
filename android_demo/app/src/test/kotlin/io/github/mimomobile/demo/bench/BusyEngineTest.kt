package io.github.mimomobile.demo.bench

import io.github.mimomobile.demo.Hardware
import io.github.mimomobile.demo.PHONE
import io.github.mimomobile.demo.SettingsStore
import io.github.mimomobile.demo.Vitals
import io.github.mimomobile.demo.application
import io.github.mimomobile.demo.await
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.ModelHolder
import io.github.mimomobile.runtime.EngineState
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Prompt
import java.io.File
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.emitAll
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.job
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.json.JSONObject
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config

/** Measurements on an engine that begins something else just before them, as it does to save an answer that was stopped. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
class BusyEngineTest {
    @get:Rule
    val hardware = Hardware()

    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default.limitedParallelism(1))
    private val real = MimoEngine()

    /** Whether the next measurement finds the engine busy. */
    @Volatile
    private var busy = false
    private val engine = object : MimoEngine by real {
        override fun generate(prompt: Prompt, config: GenerationConfig): Flow<GenerationEvent> = flow {
            if (busy) {
                busy = false
                val work = real.generate(Prompt.Text("1"), GenerationConfig { maxTokens = 50; ignoreEnd = true })
                scope.launch { work.collect {} }
                real.state.first { it is EngineState.Generating }
            }
            emitAll(real.generate(prompt, config))
        }
    }
    private val models = ModelHolder(application, scope, engine, SettingsStore(application))

    private fun load() {
        models.start()
        await("nano") { models.state.value.run { load is LoadState.Ready && task == null } }
    }

    @After
    fun close() {
        runBlocking { scope.coroutineContext.job.cancelAndJoin() }
        real.close()
    }

    @Test
    fun `a benchmark waits for what the engine begins just before it`() {
        load()
        busy = true
        val benchmark = BenchmarkHolder(application, scope, engine, SettingsStore(application), models, Vitals(application))
        benchmark.start(BenchmarkRequest(BenchmarkRequest.Kind.SELF_TEST, result = "busy.json"))
        val file = File(application.getExternalFilesDir("benchmarks"), "busy.json")
        await("the file") { file.exists() && benchmark.state.value.running == null }
        val record = JSONObject(file.readText())
        assertTrue("${record.opt("failure")}", record.isNull("failure"))
        assertTrue(record.getString("answer"), record.getString("answer").endsWith("42"))
        assertFalse("the engine was idle", busy)
    }

    @Test
    fun `so does a measurement of a comparison`() {
        load()
        busy = true
        val stats = runBlocking { engine.measured("9" + "1".repeat(BenchmarkHolder.PROMPT_TOKENS - 1)) }
        assertEquals(BenchmarkHolder.GENERATE_TOKENS, stats.generatedTokens)
        assertFalse("the engine was idle", busy)
    }

    @Test
    fun `without a model, and with an engine that was closed, it waits for nothing`() {
        val empty = assertThrows(MimoException.WrongState::class.java) { runBlocking { engine.measured("1") } }
        assertEquals("no model is loaded; call load first", empty.message)
        real.close()
        val closed = assertThrows(MimoException.WrongState::class.java) { runBlocking { engine.measured("1") } }
        assertEquals("the engine is closed", closed.message)
    }
}
