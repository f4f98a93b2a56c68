package io.github.mimomobile.demo

import android.os.PowerManager
import androidx.test.platform.app.InstrumentationRegistry
import io.github.mimomobile.demo.test.DeviceChecks
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** What `make emulator-test` checks on a device, as far as it goes here. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class DeviceChecksTest {
    @get:Rule
    val hardware = Hardware()

    @Test
    fun `the checks for devices pass here, too`() {
        // A computer answers so fast that there is nothing to stop.
        val power = application.getSystemService(PowerManager::class.java)
        shadowOf(power).setCurrentThermalStatus(PowerManager.THERMAL_STATUS_CRITICAL)
        val golden = File(checkNotNull(System.getProperty("mimo.golden")) { "mimo.golden is not set" })
        DeviceChecks(InstrumentationRegistry.getInstrumentation()) { File(golden, it).inputStream() }.use { checks ->
            val here = checks.all.filterNot { it.name in ONLY_ON_DEVICES }
            assertEquals(checks.all.size - ONLY_ON_DEVICES.size, here.size)
            for (check in here) {
                try {
                    check.run()
                } catch (error: Exception) {
                    throw AssertionError(check.name, error)
                }
            }
            assertTrue("${checks.facts}", checks.facts.length() > 2)
        }
    }

    private companion object {
        /** Robolectric turns no screen when an activity asks for it, and knows no page size. */
        val ONLY_ON_DEVICES = setOf("rotation_keeps_the_conversation", "pages_are_of_a_known_size")
    }
}
