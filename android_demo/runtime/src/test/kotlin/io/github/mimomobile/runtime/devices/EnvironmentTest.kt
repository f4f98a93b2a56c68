package io.github.mimomobile.runtime.devices

import java.lang.reflect.InvocationTargetException
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Gradle shows Android's classes to unit tests, and so does build.sh: each method throws that it is not mocked. */
class EnvironmentTest {
    @Test
    fun `a computer with Android's classes is not taken for a phone`() = setOnAndroid("MIMO_TEST", "1")

    @Test
    fun `on Android the variable is set by Android's own method`() {
        val vendor = System.setProperty("java.vendor", "The Android Project")
        val error = try {
            assertThrows(InvocationTargetException::class.java) { setOnAndroid("MIMO_TEST", "1") }
        } finally {
            System.setProperty("java.vendor", vendor)
        }
        val said = checkNotNull(error.targetException.message)
        assertTrue(said, said.startsWith("Method setenv in android.system.Os not mocked."))
    }
}
