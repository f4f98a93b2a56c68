package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.Heat
import io.github.mimomobile.runtime.Logger
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.devices.fastCores
import io.github.mimomobile.runtime.nano
import org.junit.Assert.assertEquals
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class MeasuredThreadsTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    @Test
    fun `a model is measured at its first load and when the heat is another, and the choice is told`() {
        var heat = Heat.NONE
        val told = mutableListOf<String>()
        val config = EngineConfig {
            speculation = Speculation.OFF
            measurementsFolder = temporary.root
            this.heat = { heat }
            logger = Logger { _, message -> told += message }
        }
        fun threads(config: EngineConfig) = loader(nano, config).load { _, _ -> }.use { it.info.threads }
        val first = threads(config)
        assertEquals(1, told.count { "threads are the fastest of" in it })
        assertEquals(first, threads(config))
        assertEquals(1, told.count { "threads are the fastest of" in it })
        heat = Heat.SEVERE
        threads(config)
        assertEquals(2, told.count { "threads are the fastest of" in it })
        assertEquals(2, temporary.root.listFiles()!!.size)
        assertEquals(1, threads(config.copy { threads = 1 }))
        assertEquals(fastCores(), threads(config.copy { measurementsFolder = null }))
    }
}
