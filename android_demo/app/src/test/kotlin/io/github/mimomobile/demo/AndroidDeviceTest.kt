package io.github.mimomobile.demo

import android.app.Application
import android.content.ComponentCallbacks2
import io.github.mimomobile.runtime.Conversation
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.EngineState
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Prompt
import io.github.mimomobile.runtime.WhenFull
import io.github.mimomobile.runtime.android.AndroidDevice
import java.io.File
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.emptyFlow
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config

/** What the library knows of Android beside what the app asks it. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], application = Application::class)
class AndroidDeviceTest {
    private val unloads = LinkedBlockingQueue<Unit>()

    /** Is in use, which must harm nobody. */
    private val engine = object : MimoEngine {
        override val state = MutableStateFlow<EngineState>(EngineState.Empty)
        override suspend fun load(model: File, config: EngineConfig) = Unit
        override suspend fun unload() {
            unloads += Unit
            throw MimoException.WrongState("the engine is busy")
        }
        override fun generate(prompt: Prompt, config: GenerationConfig): Flow<GenerationEvent> = emptyFlow()
        override fun stop() = Unit
        override fun countTokens(prompt: Prompt) = 0
        override fun conversation(
            system: String,
            config: GenerationConfig,
            keepThinking: Boolean,
            whenFull: WhenFull,
        ): Conversation = throw MimoException.WrongState("the engine is busy")
        override suspend fun loadConversation(file: File, config: GenerationConfig?, textOnly: Boolean): Conversation =
            throw MimoException.WrongState("the engine is busy")
        override fun close() = Unit
    }

    private fun unloaded() = unloads.poll(5, TimeUnit.SECONDS)

    @Test
    fun `a model is unloaded when memory is short and the app in the background, until that is ended`() {
        val application = RuntimeEnvironment.getApplication()
        val watch = AndroidDevice.unloadWhenMemoryIsShort(application, engine)
        application.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN)
        application.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_BACKGROUND)
        assertNotNull(unloaded())
        application.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_COMPLETE)
        assertNotNull(unloaded())
        application.onLowMemory()
        assertNotNull(unloaded())
        watch.close()
        application.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_COMPLETE)
        assertNull(unloads.poll(200, TimeUnit.MILLISECONDS))
    }
}
