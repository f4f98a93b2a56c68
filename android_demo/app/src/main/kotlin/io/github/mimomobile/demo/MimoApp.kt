package io.github.mimomobile.demo

import android.app.Application
import android.content.Context
import io.github.mimomobile.demo.bench.BenchmarkHolder
import io.github.mimomobile.demo.chat.ChatHolder
import io.github.mimomobile.demo.chat.ChatStore
import io.github.mimomobile.demo.chat.StateStore
import io.github.mimomobile.demo.models.ModelHolder
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.android.AndroidDevice
import java.io.File
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.SharingStarted
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.combine
import kotlinx.coroutines.flow.distinctUntilChanged
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.stateIn
import kotlinx.coroutines.job
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking

/** What outlives activities: the engine, one state holder a screen, and what is under way. */
class MimoApp : Application() {
    /** One task at a time: what runs in it needs no locks. */
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default.limitedParallelism(1))

    val engine: MimoEngine by lazy { MimoEngine() }
    val settings by lazy { SettingsStore(this) }
    val chats by lazy {
        ChatStore(File(filesDir, "chats"), StateStore(File(noBackupFilesDir, "chats"), { AndroidDevice.availableBytes(this) }))
    }
    val vitals by lazy { Vitals(this) }
    val models by lazy { ModelHolder(this, scope, engine, settings) }
    val benchmark by lazy { BenchmarkHolder(this, scope, engine, settings, models, vitals) }
    val chat by lazy {
        ChatHolder(scope, engine, chats, settings, models, occupied = benchmark.state.map { it.running != null })
    }

    /** What must not be ended with the app in the background; null when nothing is. */
    val work: StateFlow<Work?> by lazy {
        combine(chat.state, models.state, benchmark.state, ::workOf).stateIn(scope, SharingStarted.Eagerly, null)
    }

    /** Loads the model and watches over work; called by every screen, and only the first call counts. */
    fun start() = started

    private val started by lazy {
        models.start()
        AndroidDevice.unloadWhenMemoryIsShort(this, engine)
        scope.launch { keepAwake(this@MimoApp, work) }
        scope.launch {
            work.map { it != null }.distinctUntilChanged().collect { if (it) GenerationService.start(this@MimoApp) }
        }
        Unit
    }

    /** Stops what the notification shows; an import goes on while an answer is stopped. */
    fun stopWork() = when (work.value?.kind) {
        Work.Kind.ANSWER -> chat.stop()
        Work.Kind.BENCHMARK -> benchmark.cancel()
        Work.Kind.IMPORT, Work.Kind.VERIFY -> models.cancel()
        Work.Kind.LOAD, null -> Unit
    }

    /** Emulated processes only, one after another: none may meet what another still does. Android just ends a process. */
    override fun onTerminate() {
        runBlocking { scope.coroutineContext.job.cancelAndJoin() }
        engine.close()
        super.onTerminate()
    }
}

val Context.app: MimoApp get() = applicationContext as MimoApp
