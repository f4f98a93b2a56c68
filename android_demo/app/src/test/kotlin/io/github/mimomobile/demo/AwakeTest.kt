package io.github.mimomobile.demo

import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.launch
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowPowerManager

/** The CPU goes on with the screen off, while there is work and no longer. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
class AwakeTest {
    @Test
    fun `a lock is held while there is work, and released at its end`() {
        val work = MutableStateFlow<Work?>(null)
        val scope = CoroutineScope(Dispatchers.Unconfined + Job())
        scope.launch { keepAwake(application, work) }
        assertFalse(held())
        work.value = Work(Work.Kind.ANSWER)
        assertTrue(held())
        work.value = Work(Work.Kind.ANSWER, tokens = 1)
        work.value = null
        assertFalse(held())
        work.value = Work(Work.Kind.BENCHMARK, 0.5f)
        assertTrue(held())
        scope.cancel()
        assertFalse(held())
    }

    @Test
    fun `before there is work there is no lock`() {
        assertNull(ShadowPowerManager.getLatestWakeLock())
    }

    private fun held() = ShadowPowerManager.getLatestWakeLock()?.isHeld == true
}
